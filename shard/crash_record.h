/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_record - where a process stood when it died or hung: signal, registers, top of the stack
 *
 * Why:         a death that leaves only a number cannot be mended; a core file of a process with a
 *              large segment is slow, and often forbidden.
 * Use:         writer:  if (crash_record_begin(record, CRASH_OF_SIGNAL)) {
 *                           ... the fields that are known ...
 *                           crash_record_copy_stack(record, pid, stack_pointer);
 *                           crash_record_end(record);
 *                       }
 *              reader:  static struct crash_record copy;
 *                       if (crash_record_read(record, &copy) == 0)
 *                           ... copy is whole, and its lengths are within bounds ...
 * Concurrency: the process itself writes it, in a signal handler; or the supervisor's helper, while
 *              the process is stopped and not at writing it. Read by anyone.
 * Lifetime:    the part's: overwritten by the next crash or stall of that peer
 * Not here:    the signal handler (shard/crash_handler.h), the look from outside
 *              (shard/stall_probe.h), symbols (the tool's)
 *
 * It holds no pointer that anyone follows: addresses are numbers, for a tool to look up.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct coroutine_layout;

#define CRASH_STACK_BYTES   4096u
#define CRASH_REGISTERS_MAX 40u

/* X(name, text): how the record came to be */
#define CRASH_KINDS(X)                 \
    X(NONE, "none")                    \
    X(OF_SIGNAL, "its own last words") \
    X(OF_STALL, "taken from outside while one callback ran too long")

enum crash_kind {
#define X(name, text) CRASH_##name,
    CRASH_KINDS(X)
#undef X
};

enum crash_flags {
    CRASH_OVERFLOW = 1u << 0,     /* the coroutine ran over the end of its stack */
    CRASH_OTHER_THREAD = 1u << 1, /* not the loop's: what `running` names is not to blame */
    CRASH_NO_REGISTERS = 1u << 2, /* could not be had: /proc alone */
};

struct crash_record {
    uint64_t sequence;    /* odd: being written; 0: never was */
    uint32_t kind;        /* enum crash_kind */
    uint32_t flags;       /* enum crash_flags */
    uint32_t incarnation; /* whose */
    int32_t pid;
    int32_t tid; /* of the thread that it happened to */
    int32_t signal;
    int32_t code;     /* si_code */
    uint32_t machine; /* of ELF: EM_X86_64, EM_AARCH64 */
    uint32_t n_registers;
    uint32_t stack_bytes;
    uint64_t fault_address; /* si_addr */
    uint64_t at_ns;         /* CLOCK_MONOTONIC */
    uint64_t running;       /* running_word() */
    uint64_t coroutine;     /* its number in the registry; 0: the loop itself, or unknown */
    uint64_t pc;
    uint64_t stack_address;                  /* of stack[0] */
    uint64_t registers[CRASH_REGISTERS_MAX]; /* in the order of NT_PRSTATUS in a core file */
    char coroutine_name[32];                 /* NUL-terminated */
    /* Of a stall. */
    int64_t syscall_number;   /* -1: none is under way, or unknown */
    uint64_t callback_ns;     /* how long it had run */
    uint64_t stopped_ns;      /* how long the look stopped it */
    char state[4];            /* of /proc: "R", "S", "D" */
    char wait_channel[36];    /* of /proc: "" where it tells nothing */
    uint64_t coroutine_entry; /* address of the coroutine's first function */
    uint8_t spare[120];
    uint8_t stack[CRASH_STACK_BYTES];
};

const char *crash_kind_text(uint32_t kind);

/* Makes the record this writer's, with every field zero but kind. False: somebody is writing it.
 * Context: signal handler. */
bool crash_record_begin(struct crash_record *record, enum crash_kind kind);

/* Copies what of [sp, sp + CRASH_STACK_BYTES) is there, from the first page of it that is; pid's
 * memory, which may be the caller's own. Context: signal handler. */
void crash_record_copy_stack(struct crash_record *record, pid_t pid, uint64_t sp);

/* Which coroutine runs in pid, its name cut to the room there is; nothing, where that is not to be
 * found or makes no sense. Context: signal handler. */
void crash_record_copy_coroutine(
    struct crash_record *record, pid_t pid, const struct coroutine_layout *layout);

/* The record is whole. Context: signal handler. */
void crash_record_end(struct crash_record *record);

/* Its writer died at it: there is no record. Whoever calls this is the only one left who writes
 * it. */
void crash_record_void(struct crash_record *record);

/* A private copy, checked. 0; -ENOENT: there is none; -EAGAIN: it is being written, or its writer
 * died at it; -EPROTO: it makes no sense. */
int crash_record_read(const struct crash_record *record, struct crash_record *ret);

/* The first thing a person wants to know, as one line: "SIGSEGV at 0x…, address 0x…, in coroutine
 * file.read (17)", or "SIGSEGV at 0x…: stack overflow of coroutine file.read (17) created at
 * 0x…". */
void crash_record_line(const struct crash_record *record, char *buf, size_t size);
