/* SPDX-License-Identifier: MIT */
/*
 * sherd stop - tells the supervisor to end the instance, by a signal, and waits until it has
 *
 * The segment says who the supervisor is, so no other process is needed. The instance is gone when
 * the last of its processes is, which the lock tells; the supervisor waits for its children, so the
 * lock is free as soon as it has ended, unless it was killed: then the others leave by themselves.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/rundir.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/instance.h"
#include "tools/pidfd.h"
#include "tools/text.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t timeout_ns;
    bool now;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"timeout", 0, "SECONDS", "how long to wait for its end (default: 60)", command_seconds,
        offsetof(struct values, timeout_ns)},
    {"now", 0, NULL, "do not wait for what is in flight", command_flag,
        offsetof(struct values, now)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd stop --instance demo", "finish what is in flight, then end"},
    {"sherd stop --instance demo --now", "end at once; what is in flight is cut off"},
    {0},
};

static const struct command command = {
    .name = "stop",
    .operands = "",
    .summary = "Ends an instance: nothing new is taken, what is in flight completes, all processes "
               "leave.",
    .details = "It signals the supervisor (SIGTERM; with --now twice) and waits, so it works when "
               "the gateway is\ndead. How long what is in flight may take is the limit that the "
               "instance was started with.",
    .options = options,
    .examples = examples,
};

/* Signals of one kind that are not taken yet are one, so a second one makes sense only when the
 * first has done something. */
static int signal_twice(const struct instance *in, int pidfd, int64_t deadline_ns)
{
    const struct supervisor_head *head = segment_supervisor(&in->segment);
    int r = pidfd_signal(pidfd, SIGTERM);
    while (!r && atomic_load_relaxed(&head->state) != PEER_DRAINING) {
        if (!pidfd_wait(pidfd, NS_PER_MS))
            return 0;
        if (clock_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
    }
    return r ? r : pidfd_signal(pidfd, SIGTERM);
}

/* Tells the supervisor and waits for its end. 0, -ETIMEDOUT or -errno. */
static int end_supervisor(const struct instance *in, int pidfd, bool now, int64_t deadline_ns)
{
    int r = now ? signal_twice(in, pidfd, deadline_ns) : pidfd_signal(pidfd, SIGTERM);
    if (r == -ESRCH)
        return 0;
    int64_t left_ns = deadline_ns - clock_now_ns();
    return r ? r : pidfd_wait(pidfd, left_ns > 0 ? left_ns : 0);
}

/* Looks a hundred times a second: nothing wakes a process when another's lock is let go. */
static int wait_for_lock(const struct instance *in, int64_t deadline_ns)
{
    for (;;) {
        int live = rundir_is_live(in->path);
        if (live <= 0)
            return live;
        if (clock_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
        struct timespec pause = clock_timespec(10 * NS_PER_MS);
        nanosleep(&pause, NULL);
    }
}

static int stop(const struct instance *in, const struct values *values)
{
    char limit[TEXT_FIGURE];
    int64_t deadline_ns = clock_now_ns() + values->timeout_ns;
    int r = instance_open_supervisor(in);
    if (r >= 0) {
        int pidfd = r;
        r = end_supervisor(in, pidfd, values->now, deadline_ns);
        close(pidfd);
    } else if (r == -ESRCH) {
        r = 0;
    }
    if (!r)
        r = wait_for_lock(in, deadline_ns);
    if (r == -ETIMEDOUT)
        return command_error(
            "stop: instance %s is still there after %s; what is in flight goes on: "
            "wait longer with --timeout, or cut it off with --now",
            in->name, text_duration((uint64_t)values->timeout_ns, limit));
    if (r)
        return command_error("stop: instance %s, supervisor %d: %s%s", in->name,
            segment_supervisor(&in->segment)->pid, strerror(-r),
            r == -EPERM ? "; be the user who started it" : "");
    return EXIT_DONE;
}

int stop_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .timeout_ns = 60 * NS_PER_S};
    struct instance in;
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (instance_open(values.instance, values.wait_ns, INSTANCE_THERE, &in))
        return EXIT_WORK_FAILED;
    int status = stop(&in, &values);
    instance_close(&in);
    return status;
}
