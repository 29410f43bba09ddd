/* SPDX-License-Identifier: MIT */
#include "runtime/uring.h"
/*
 * What a ring does is done by the kernel without a system call of the process, so no list of system
 * calls sees it: a ring has to have a list of its own. The kernel takes one while the ring is
 * disabled, and keeps to it from the moment it is enabled, for good; an entry that is not on it
 * ends with -EACCES.
 */
#include <stdlib.h>

/* The loop's and the engine's own; for programs (aio_sqe.h), what can be done with fds that are
 * there. Not on it: opening by another call than openat2(), making and connecting sockets, changing
 * folders, commands to devices, messages to other rings. */
static const uint8_t operations[] = {IORING_OP_NOP, IORING_OP_READ, IORING_OP_WRITE,
    IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,
    IORING_OP_SYNC_FILE_RANGE, IORING_OP_FALLOCATE, IORING_OP_FADVISE, IORING_OP_OPENAT2,
    IORING_OP_CLOSE, IORING_OP_STATX, IORING_OP_SPLICE, IORING_OP_TEE, IORING_OP_POLL_ADD,
    IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL, IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE,
    IORING_OP_ACCEPT, IORING_OP_SEND, IORING_OP_RECV, IORING_OP_SENDMSG, IORING_OP_RECVMSG,
    IORING_OP_SEND_ZC, IORING_OP_SENDMSG_ZC, IORING_OP_SHUTDOWN, IORING_OP_PROVIDE_BUFFERS,
    IORING_OP_REMOVE_BUFFERS};

static const uint8_t registrations[] = {IORING_REGISTER_BUFFERS, IORING_UNREGISTER_BUFFERS,
    IORING_REGISTER_BUFFERS_UPDATE, IORING_REGISTER_FILES, IORING_REGISTER_FILES2,
    IORING_UNREGISTER_FILES, IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_PROBE,
    IORING_REGISTER_SYNC_CANCEL, IORING_REGISTER_PBUF_RING, IORING_UNREGISTER_PBUF_RING};

#define FLAGS (IOSQE_FIXED_FILE | IOSQE_ASYNC | IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS)

int uring_restrict(struct uring *u)
{
    struct io_uring_restriction list[sizeof(operations) + sizeof(registrations) + 1] = {0};
    unsigned n = 0;
    uint64_t ops = 0;

    for (size_t i = 0; i < sizeof(operations); i++) {
        ops |= UINT64_C(1) << operations[i];
        if (u->supported_ops >> operations[i] & 1) { /* the kernel refuses a list with others */
            list[n].opcode = IORING_RESTRICTION_SQE_OP;
            list[n++].sqe_op = operations[i];
        }
    }
    for (size_t i = 0; i < sizeof(registrations); i++) {
        list[n].opcode = IORING_RESTRICTION_REGISTER_OP;
        list[n++].register_op = registrations[i];
    }
    list[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    list[n++].sqe_flags = FLAGS;
    u->supported_ops &= ops;
    return io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, list, n);
}
