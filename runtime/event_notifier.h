/* SPDX-License-Identifier: MIT */
#ifndef SHERD_EVENT_NOTIFIER_H
#define SHERD_EVENT_NOTIFIER_H
/*
 * event_notifier - an eventfd that a loop watches: says that something happened, not how often
 *
 * Why:         a signal handler, another thread or the kernel must wake a loop's callback, through
 *              something that is an fd for whoever takes fds alone (io_uring, vhost, a child).
 * Use:         EventNotifier e;
 *              int r = event_notifier_init(&e, false);
 *              aio_set_event_notifier(ctx, &e, on_event, NULL, NULL);
 *              event_notifier_set(&e), from anywhere
 *              on_event(): if (event_notifier_test_and_clear(e)) …
 *              aio_set_event_notifier(ctx, &e, NULL, NULL, NULL); event_notifier_cleanup(&e);
 * Concurrency: set, test_and_clear: any thread, signal handler. Init, cleanup: one thread, while
 *              nobody else uses it.
 * Lifetime:    the caller embeds it. The fd is closed by event_notifier_cleanup() alone, and its
 *              number is anybody's from then on: first end what may still set it, in another
 *              process too.
 * Not here:    waking a loop as such (aio_notify()), bottom halves (sherd/aio.h)
 */
#include <stdbool.h>

#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Embed it; the field is this file's. */
typedef struct EventNotifier {
    int fd; /* -1: cleaned up */
} EventNotifier;

/* A callback of a notifier: opaque is the EventNotifier. */
typedef IOHandler EventNotifierHandler;

/* A new one, set already if active is. 0, or -EMFILE, -ENFILE, -ENOMEM; then it is as after
 * event_notifier_cleanup(). Context: any thread. */
int event_notifier_init(EventNotifier *e, bool active);

/* Closes the fd. What is called on e afterwards does nothing. Twice is once. Context: any
 * thread. */
void event_notifier_cleanup(EventNotifier *e);

/* Sets it: its fd is readable until it is cleared. 0, also where it was set already, however often;
 * -EBADF after cleanup. Keeps errno. Context: any thread, signal handler. */
int event_notifier_set(EventNotifier *e);

/* Clears it and returns whether it was set; false after cleanup. Keeps errno. Context: any thread,
 * signal handler. */
bool event_notifier_test_and_clear(EventNotifier *e);

/* To be polled for reading: not to be read, written or closed. -1 after cleanup. Context: any
 * thread. */
int event_notifier_get_fd(const EventNotifier *e);

/*
 * Has ctx call io_read whenever e is set, again and again until it is cleared; io_read NULL takes
 * it off. io_poll and io_poll_ready as in aio_set_fd_handler(). Returns what that returns, -EBADF
 * after cleanup. Context: any thread.
 */
int aio_set_event_notifier(AioContext *ctx, EventNotifier *e, EventNotifierHandler *io_read,
    AioPollFn *io_poll, EventNotifierHandler *io_poll_ready);

/* As aio_set_fd_poll() for its fd: what is told when the loop begins to ask io_poll, and when it
 * ends. Context: any thread. */
int aio_set_event_notifier_poll(AioContext *ctx, EventNotifier *e,
    EventNotifierHandler *io_poll_begin, EventNotifierHandler *io_poll_end);

#ifdef __cplusplus
}
#endif
#endif
