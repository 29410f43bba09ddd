/* SPDX-License-Identifier: MIT */
#ifndef SHERD_SERVICE_H
#define SHERD_SERVICE_H
/*
 * service - work that a shard can do: a table of methods, each a coroutine
 *
 * Why:         what Sherd runs is not built into it: sys, file and a foreign .so look the same.
 * Use:         static int coroutine_fn hello(struct service_call *call)
 *              {
 *                  return service_reply(call, "hello", 5);
 *              }
 *              static const struct service_method methods[] = {
 *                  {.name = "hello", .run = hello, .flags = SERVICE_IDEMPOTENT, .help = "says
 *                  hello"},
 *              };
 *              const struct service sherd_service = {
 *                  .abi = SERVICE_ABI, .name = "greeter", .help = "greets",
 *                  .methods = methods, .n_methods = 1,
 *              };
 *              A .so exports the symbol `sherd_service`, is loaded before the first fork
 *              (sherd run --service ./greeter.so) and links nothing of Sherd.
 * Concurrency: each call is a coroutine of its own; calls of one shard run in one thread, each
 *              shard is a process. No thread may be started at load time.
 * Lifetime:    tables live as long as the process; a struct service_call until its method returns.
 *
 * A method returns 0 when done, after at most one reply, or -errno. service_fail() gives the error
 * a text.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/co_fd.h"
#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SERVICE_ABI 4u

struct service_call;
struct service_plan;  /* in the supervisor: what a service is going to need */
struct service_reach; /* of the machine: what a shard may use */
struct service_home;  /* a service in one shard, from its start() to the end of stop() */
struct ProtobufCMessageDescriptor;

typedef int service_run_fn(struct service_call *call); /* coroutine_fn */

enum service_flags {
    SERVICE_IDEMPOTENT =
        1u << 0,            /* with all it calls: may be run again after its shard died half-way */
    SERVICE_TEST = 1u << 1, /* refused unless `sherd run --enable-test-methods` */
    /* Changes nothing that outlives it, and is idempotent for that. `methods` tells clients so. */
    SERVICE_READ_ONLY = 1u << 2 | SERVICE_IDEMPOTENT,
    /* Arguments that are not small are no copy: they lie in the caller's memory, which only that
     * process can write to, but it at any time. What is parsed is copied first. Until the method
     * returns it takes no room, makes no large reply (-EDEADLK) and calls no shard. */
    SERVICE_IN_PLACE = 1u << 8,
    /* A call from another peer runs in a portable coroutine, as long as there is one and its
     * arguments are no longer than 64 KiB - 16: it may service_move(). */
    SERVICE_PORTABLE = 1u << 9,
    /* hash() only brings together what is about the same thing: any shard can do it. A request of a
     * local client, with arguments or room for an answer in its memory that are not small, runs in
     * the shard that it was given to, without hash(): another one would get copies of both. */
    SERVICE_STAYS = 1u << 10,
};

/* Whose request a call is, or is made for, however deep within other calls. */
enum service_caller_kind {
    SERVICE_CALLER_NONE,  /* nobody's: of a connection, a timer, or the like */
    SERVICE_CALLER_LOCAL, /* a client on this machine, by shared memory; its end is that of its
                               connection, at the latest with its process */
    SERVICE_CALLER_SESSION, /* a session with the gateway; its end is a minute after its connection's */
};

struct service_caller {
    uint64_t id;     /* its alone, in all shards and for as long as the instance lives; 0: nobody */
    uint32_t kind;   /* enum service_caller_kind */
    uint32_t number; /* as tools and logs show it; another one may have it later */
};

struct service_method {
    const char *name;
    service_run_fn *run;
    uint32_t flags;
    const char *help; /* a line: arguments and what comes back */
    /* What they are, for who asks: &NAME__descriptor of protobuf-c. NULL: bytes. Nobody checks them
     * before the method runs; sherd/service_message.h unpacks and packs. */
    const struct ProtobufCMessageDescriptor *args, *reply;
};

enum service_counter_kind {
    SERVICE_COUNTER, /* only grows, over the deaths of its shard too */
    SERVICE_GAUGE,   /* goes both ways; 0 when its shard begins */
};

/* Shown by `sherd services`, for each shard. */
struct service_counter {
    const char *name; /* a-z 0-9 - _ */
    enum service_counter_kind kind;
    const char *help;
};

enum service_setting_kind {
    SERVICE_TEXT,
    SERVICE_NUMBER,
    SERVICE_SIZE, /* bytes: a number, and maybe K, M or G behind it */
};

/* What `sherd run --set NAME.KEY=VALUE` may say. Other keys, and values that are none, keep the
 * instance from starting, with a text that says what there is. */
struct service_setting {
    const char *name; /* KEY: a-z 0-9 - _ */
    enum service_setting_kind kind;
    const char *help;
    uint64_t initial;  /* where nobody says; a text is NULL then */
    uint64_t min, max; /* of a number or size */
};

/* What a setting is: in config, by its place in the table. */
union service_value {
    const char *text;
    uint64_t number; /* or size */
};

struct service {
    uint32_t abi; /* SERVICE_ABI */
    const char *name;
    const char *help;
    const struct service_method *methods;
    uint32_t n_methods;
    /* For settings that no table can say (settings, below), in the supervisor, before the first
     * fork: for each --set NAME.KEY=VALUE and, for `file`, each --root (key "root"). *config is
     * NULL the first time and the service's to fill; every shard inherits it. 0, or -errno with a
     * text in ret_error (free() it) and *config as good as before. NULL: takes none of these. */
    int (*configure)(void **config, const char *key, const char *value, char **ret_error);
    /* Frees what configure() made, which may be NULL. NULL: nothing to do. */
    void (*discard)(void *config);
    /* In each new shard, in its loop, before its first call and connection. 0 or -errno: the shard
     * does not come up. config, constant from here on, is that of settings, or what configure()
     * made, NULL where it was never called. *ret_state is handed to each call. NULL: nothing to
     * do. */
    int (*start)(struct service_home *home, const void *config, void **ret_state);
    /* In a shard that leaves in order, after its last call. NULL: nothing to do. */
    void (*stop)(void *state);
    /* Which shard owns a call that names none: a hash of its key, of which the 16,384 slots are
     * taken. method is the place in methods. 0 with *ret_hash, or -errno: anywhere. Runs in the
     * gateway, and in shards for local clients; args are a private copy, and not NULL. NULL:
     * anywhere. */
    int (*hash)(uint32_t method, const void *args, size_t len, uint64_t *ret_hash);
    /* In the supervisor, once, when all settings are known: service_plan_region() and
     * service_listen(). 0, or -errno with a text in ret_error (free() it): the instance does not
     * start. NULL: needs neither. */
    int (*prepare)(struct service_plan *plan, const void *config, char **ret_error);
    /* Counted with service_count(), by their places here. */
    const struct service_counter *counters;
    uint32_t n_counters;
    /* In a shard that is told to take nothing new, in its loop: what the service does of its own
     * accord ends soon. Its listeners close by themselves, before. resume(): it goes on after all.
     * NULL: nothing to do. */
    void (*drain)(void *state);
    void (*resume)(void *state);
    /* In each new shard, before it gives up its rights and start() is called: names what it needs
     * of the machine beyond memory, threads, its listeners and what it was handed, by
     * service_reach_path() and service_reach_sockets(). All else fails in it from then on
     * (docs/security.md). 0 or -errno: the shard does not come up. NULL: nothing. */
    int (*reach)(const void *config, struct service_reach *reach);
    /* In a shard, in its loop and outside coroutines: a caller has ended for which
     * service_watch_caller() was called here. What it has under way may end after that, and no
     * later service_watch_caller() of it succeeds. NULL: nothing to do. */
    void (*gone)(void *state, const struct service_caller *caller);
    /* Where there are any, configure() and discard() are NULL, and config is an array of union
     * service_value, one for each of them. */
    const struct service_setting *settings;
    uint32_t n_settings;
};

/* What a .so is known by: visible also where it is built with -fvisibility=hidden, as one of
 * several files is built best. */
extern const struct service sherd_service __attribute__((visibility("default")));

/* ---- in the supervisor: prepare() ---- */

/* How many shards there are going to be. */
uint32_t service_plan_n_shards(const struct service_plan *plan);

/*
 * Each shard is to have a region of so many bytes, which outlives it: it lies in shared memory, at
 * one address in all of that shard's incarnations, and is zero at first. In start(),
 * service_region() finds it. 0; -EINVAL: the name has other letters than a-z 0-9 - _, or bytes is
 * 0; -EEXIST; -ENOSPC: more than 16 regions of all services; -ENOMEM.
 */
int service_plan_region(struct service_plan *plan, const char *name, uint64_t bytes);

enum service_listen_flags {
    /* One socket of which all shards accept, instead of one for each (SO_REUSEPORT), among which
     * the kernel deals connections out: each comes to who looks first. Unix sockets are always
     * so. */
    SERVICE_LISTEN_SHARED = 1u << 0,
};

struct service_listener {
    const char *name;    /* a-z 0-9 - _ */
    const char *address; /* tcp://127.0.0.1:6379, tcp://[::1]:0, unix:///run/kv.sock */
    uint32_t flags;      /* enum service_listen_flags */
    uint32_t
        connections_max;   /* open at a time in each shard; others wait in the backlog. 0: 1,000 */
    uint32_t backlog;      /* how many wait there; 0: as many as the kernel lets */
    int64_t send_limit_ns; /* one who takes nothing for so long is let go; 0: 60 s */
    int64_t idle_limit_ns; /* one who sends nothing for so long likewise; 0: never */
    /* A connection, in a coroutine of its own. It is closed when this returns, whatever it returns.
     * call is that of nobody: it has no arguments and takes no answer, and all else may be used
     * with it. */
    service_run_fn *serve;
};

/*
 * Opens it, before the first fork: so it stays when a shard dies, with who waits in its backlog,
 * and the replacement accepts them. Connections that were accepted close with their shard. What
 * listener points to is copied. 0, or -errno with a text: -EINVAL: the address, the name, no
 * serve(); -EADDRINUSE and whatever else socket(), bind() and listen() say; -EEXIST; -ENOSPC: more
 * than 16 of all services.
 */
int service_listen(
    struct service_plan *plan, const struct service_listener *listener, char **ret_error);

/* ---- in a shard: reach() ---- */

/* A file, or a folder with all below it, may be opened, and written, made and removed where
 * writable. What is not there is no error. 0 or -ENOMEM. */
int service_reach_path(struct service_reach *reach, const char *path, bool writable);

/* Sockets may be made, bound and connected, not only those used that are listened on. */
void service_reach_sockets(struct service_reach *reach);

/* ---- in a shard: from start() on ---- */

/* This shard, and how many there are. */
uint32_t service_home_shard(const struct service_home *home);
uint32_t service_home_n_shards(const struct service_home *home);

/* Adds n to the counter in that place of the service's table; or makes it n. */
void service_count(struct service_home *home, uint32_t counter, int64_t n);
void service_count_set(struct service_home *home, uint32_t counter, uint64_t n);

/*
 * A region of this shard, and how the incarnation that had it before left it. A process may die
 * between any two stores, and what it had stored by then is there, in the order of its code as far
 * as service_region_begin() and _end() order it: so who changes more than one word
 *
 *     service_region_begin(&region, 1);        whatever is not 0, and means something to it
 *     … the stores …
 *     service_region_end(&region);
 *
 * and after a death finds in `mark` whether it was in the middle, and of what. A change that a
 * single aligned store of at most 8 bytes completes (service_region_publish()) needs no mark.
 */
struct service_region {
    void *data; /* on a page */
    uint64_t bytes;
    uint32_t found; /* the incarnation that had it before; 0: none, and all bytes are 0 */
    uint64_t mark;  /* that it left; 0: it was in the middle of nothing */
    uint64_t *word; /* the region's own */
};

/* Once in each start(): this incarnation's from now on. The mark stays as it was until
 * service_region_begin() or _end(). 0; -ENOENT: prepare() planned none of that name. */
int service_region(struct service_home *home, const char *name, struct service_region *ret);

void service_region_begin(const struct service_region *region, uint64_t mark);
void service_region_end(const struct service_region *region);

/* Stores *word = value, after all that was stored before it and before all that is after it. */
static inline void service_region_publish(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void service_region_publish32(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* ---- what a method may use ---- */

/* The arguments, gone when the method returns: a private copy, but for SERVICE_IN_PLACE. */
const void *service_args(const struct service_call *call, size_t *ret_len);

/* What start() made. */
void *service_state(const struct service_call *call);

/* Its row in the service's table; NULL in a connection. */
const struct service_method *service_method(const struct service_call *call);

/* The service in the shard where the call is now. */
struct service_home *service_home(const struct service_call *call);

/* What hash() makes of a key, so that it agrees with service_shard_of_key(). Any process. */
uint64_t service_hash(const void *key, size_t len);

/* The shard that owns a key: a hash of it chooses one of 16,384 slots, and that a shard. */
uint32_t service_shard_of_key(const struct service_call *call, const void *key, size_t len);
uint32_t service_shard_of_hash(const struct service_call *call, uint64_t hash);

/* This shard, and how many there are. */
uint32_t service_shard(const struct service_call *call);
uint32_t service_n_shards(const struct service_call *call);

/* The methods of all services of this instance have numbers from 0: how many there are, and one of
 * them with its service's name, which is what callers write: "service.method". NULL: no such
 * number, or a test method that is not enabled. */
uint32_t service_n_methods(const struct service_call *call);
const struct service_method *service_method_at(
    const struct service_call *call, uint32_t method, const char **ret_service);

/* Who wants it. In the shard where the call is now. */
void service_caller(const struct service_call *call, struct service_caller *ret_caller);

/* What this call is about to leave in the shard belongs to its caller: gone() is called here once
 * that has ended. What is left is lost with the shard, and so is this. 0, however often; -ENOENT:
 * the caller is nobody; -ECANCELED: it has ended already, so nothing is to be left; -ENOMEM. */
int service_watch_caller(const struct service_call *call);

/* CLOCK_MONOTONIC ns by which the caller wants the answer; INT64_MAX where there is none. */
int64_t service_deadline_ns(const struct service_call *call);

/* False once nobody waits for the answer any more: cancelled, its deadline passed, or the caller is
 * dead. What runs for long asks now and then, and returns -ECANCELED. */
bool service_is_wanted(const struct service_call *call);

/* Sleeps for ns nanoseconds. 0; -ECANCELED as soon as the answer is not wanted any more; -ETIMEDOUT
 * at the deadline; either where a scope of the coroutine ends (sherd/co_cancel.h). One coroutine
 * of a call at a time. coroutine_fn. */
int coroutine_fn service_sleep_ns(struct service_call *call, int64_t ns);

/*
 * The method goes on in that shard; call and arguments come along, service_state() is from then on
 * that shard's, and what else it may hold docs/portable.md says. Answering brings it home first, or
 * to its home's replacement, and so does its return. 0; -ENOTSUP: it does not run in a portable
 * coroutine (SERVICE_PORTABLE). -EBUSY: it holds what is of this shard: room for an answer, a large
 * answer, an error's text, a lock; arguments for which the memory that moves did not suffice.
 * -EFAULT: `sherd run --scan-moves refuse` found a pointer into this shard's own memory.
 * -ENODEV, -EHOSTDOWN, -ENOMEM. coroutine_fn.
 */
int coroutine_fn service_move(struct service_call *call, uint32_t shard);

/* Lets other calls run. A method that computes for long and may move (SERVICE_PORTABLE) then goes
 * on in a shard that sleeps, where others wait for their turn here. 0; errors as service_move(),
 * and it goes on where it was. coroutine_fn. */
int coroutine_fn service_yield(struct service_call *call);

/*
 * A mutex between the calls of all shards, by name. 0: held. -EOWNERDEAD: held, and who held it
 * before died with it, so that what it guards may be half done: make it whole, and call
 * service_lock_consistent() before service_unlock(), or the next one is told the same. Else not
 * held: -ETIMEDOUT (the call's deadline), -ECANCELED (the answer is not wanted any more), -EDEADLK
 * (this call holds it), -EHOSTDOWN (the shard that keeps the lock is given up), -ENOSPC, -ENOMEM;
 * service_trylock() also -EBUSY. What is still held when the method returns is let go as if the
 * shard had died. A call does not move while it holds one. coroutine_fn.
 */
int coroutine_fn service_lock(struct service_call *call, const char *name);
int coroutine_fn service_trylock(struct service_call *call, const char *name);

/* Without waiting. 0; -EPERM: this call does not hold it. */
int coroutine_fn service_unlock(struct service_call *call, const char *name);

/* 0; -EPERM as above; -EINVAL: service_lock() was not -EOWNERDEAD, or this was called before. */
int coroutine_fn service_lock_consistent(struct service_call *call, const char *name);

#define SERVICE_REPLY_MAX ((size_t)1024 * 1024) /* also the longest arguments */

/* The longest answer to this call: SERVICE_REPLY_MAX, or more for a local client, whose own memory
 * takes it. */
size_t service_reply_max(const struct service_call *call);

/* Answers with len bytes, copied. 0; -EMSGSIZE above service_reply_max(); -EALREADY the second
 * time; -ENOBUFS: a local client has less room for it. May wait for room. coroutine_fn. */
int coroutine_fn service_reply(struct service_call *call, const void *data, size_t len);

/*
 * Room for an answer of up to len bytes, filled in place: by a disk read (sherd/disk.h), or by any
 * other means, and then sent without a copy. It begins at a multiple of SERVICE_ROOM_ALIGN bytes,
 * as O_DIRECT asks, unless it has 32 bytes or less, or is a local client's memory, which begins
 * where the client said: who reads past the cache looks at that first. Its bytes are whatever was
 * there before. Until it is answered with, or the method returns, the method may wait for disks and
 * time, but calls no shard. No I/O is under way on it any more when service_reply_done() is called,
 * and none when the method returns, which gives back what is not answered with.
 *
 * 0; -EMSGSIZE: len is 0, or above service_reply_max(); -EALREADY: the second time, or after
 * service_reply(); -EDEADLK: the arguments lie in the caller's memory; -ENOBUFS: a local client has
 * less room; -ENOMEM. May wait for room. coroutine_fn.
 */
#define SERVICE_ROOM_ALIGN ((size_t)4096)
int coroutine_fn service_reply_room(struct service_call *call, size_t len, void **ret_room);

/* Whether service_reply_room() would have it now, without waiting: who holds what others want gives
 * that back first where it would not. In the shard that was called. */
bool service_has_reply_room(const struct service_call *call, size_t len);

/* Answers with the first len bytes of the room. 0; -EINVAL: there is none, or not as large. */
int service_reply_done(struct service_call *call, size_t len);

#define SERVICE_ERROR_MAX ((size_t)4096)

/* Returns error (-errno), with a text for people: what failed, on what, why, what to do. What is
 * longer than SERVICE_ERROR_MAX bytes is cut. */
int service_fail(struct service_call *call, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Calls a method of any shard, this one included, and waits for its answer. name is
 * "service.method". On 0, *ret_data (free() it) holds the answer; on failure the error's text,
 * which may be NULL. -ENOENT: no such method. -ENODEV: no such shard. -ELOOP: nested too deep.
 * -EMSGSIZE. -EOWNERDEAD: in doubt, the shard died while it ran and the method is not idempotent.
 * -EDEADLK: it has room for an answer that is not done, or for another call, or arguments in the
 * caller's memory. -ETIMEDOUT: the deadline of the call that is being served has passed.
 * -ECANCELED: nobody waits for that call any more, so this one was taken back too. -EHOSTDOWN: that
 * shard is given up. coroutine_fn. */
int coroutine_fn service_call_shard(struct service_call *call, uint32_t shard, const char *name,
    const void *args, size_t len, void **ret_data, size_t *ret_len);

/*
 * The same with arguments that are filled in place, by a disk read or otherwise, and reach the
 * other shard without a copy: room for len bytes, of which service_call_filled() sends the first,
 * and waits. In between the method may wait for disks and time; it calls no shard, makes no large
 * reply and takes no other room (-EDEADLK). It begins at a multiple of SERVICE_ROOM_ALIGN bytes;
 * its bytes are whatever was there before. It is given back by service_call_drop(), and else when
 * the method returns: no I/O may be under way on it then, or when it is sent. Once sent it is not
 * written to any more. Where the shard dies while it has it, the method is run again with the same
 * bytes, if it is idempotent; where this one dies, nobody gets the room before its I/O is over.
 *
 * As service_call_shard(); -EMSGSIZE also where len is 0. service_call_filled() also -EINVAL: there
 * is no room, or not as large. Both may wait. coroutine_fn.
 */
int coroutine_fn service_call_room(
    struct service_call *call, uint32_t shard, const char *name, size_t len, void **ret_room);
int coroutine_fn service_call_filled(
    struct service_call *call, size_t len, void **ret_data, size_t *ret_len);
void service_call_drop(struct service_call *call);

/* One of the calls that service_gather() makes. */
struct service_part {
    uint32_t shard;
    const void *args;
    size_t args_len;

    /* Filled in, whatever the end. */
    int status; /* as service_call_shard() returns it */
    void *data; /* free() it: the answer, or the error's text; may be NULL */
    size_t len;
};

enum service_gather_flags {
    SERVICE_FAIL_FAST = 1u << 0, /* once one has failed the others end with -ECANCELED */
};

/* Calls a method in n shards at a time, each with arguments of its own, and waits for all. 0 where
 * all succeeded, else the status of the first that failed; -ENOENT, with nothing called: no such
 * method. Each has the deadline of the call that is being served. coroutine_fn. */
int coroutine_fn service_gather(struct service_call *call, const char *name,
    struct service_part *parts, size_t n, uint32_t flags);

/* ---- connections: in a listener's serve() ---- */

/*
 * Some bytes: at least one, as many as are there, at most len; 0: the other side has ended. -errno:
 * -ECANCELED: the shard takes nothing new, so the connection is to end; -ETIMEDOUT: silent for
 * longer than its listener allows; -ECONNRESET and the like. One coroutine at a time. coroutine_fn.
 */
ssize_t coroutine_fn service_recv(struct service_call *call, void *buf, size_t len);

/* All of it: 0; -ETIMEDOUT: the other side took nothing for longer than its listener allows;
 * -EPIPE, -ECONNRESET and the like. One coroutine at a time. coroutine_fn. */
int coroutine_fn service_send(struct service_call *call, const void *data, size_t len);

/* The connection, for what else is to be done with it (sherd/co_socket.h); NULL: the call is
 * none's. */
CoFd *service_connection(const struct service_call *call);

#ifdef __cplusplus
}
#endif
#endif
