/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * nng_error - nng's error numbers as errno values
 *
 * Why:         nobody beyond the files that call nng has to know its numbers.
 * Use:         return nng_errno(nng_…()); 0 stays 0
 * Concurrency: a pure function
 */
#include <errno.h>
#include <nng/nng.h>

/* X(nng's, ours) */
#define NNG_ERRORS(X)                 \
    X(NNG_EINTR, EINTR)               \
    X(NNG_ENOMEM, ENOMEM)             \
    X(NNG_EINVAL, EINVAL)             \
    X(NNG_EBUSY, EBUSY)               \
    X(NNG_ETIMEDOUT, ETIMEDOUT)       \
    X(NNG_ECONNREFUSED, ECONNREFUSED) \
    X(NNG_ECLOSED, ESHUTDOWN)         \
    X(NNG_EAGAIN, EAGAIN)             \
    X(NNG_ENOTSUP, EOPNOTSUPP)        \
    X(NNG_EADDRINUSE, EADDRINUSE)     \
    X(NNG_ENOENT, ENOENT)             \
    X(NNG_EPROTO, EPROTO)             \
    X(NNG_EUNREACHABLE, EHOSTUNREACH) \
    X(NNG_EADDRINVAL, EADDRNOTAVAIL)  \
    X(NNG_EPERM, EACCES)              \
    X(NNG_EMSGSIZE, EMSGSIZE)         \
    X(NNG_ECONNABORTED, ECONNABORTED) \
    X(NNG_ECONNRESET, ECONNRESET)     \
    X(NNG_ECANCELED, ECANCELED)       \
    X(NNG_ENOFILES, EMFILE)           \
    X(NNG_ENOSPC, ENOSPC)             \
    X(NNG_EPEERAUTH, EKEYREJECTED)    \
    X(NNG_ECRYPTO, EKEYREJECTED)

/* 0 or -errno; what has no counterpart is -EIO. */
static inline int nng_errno(int error)
{
    if (error == 0)
        return 0;
    if (error & NNG_ESYSERR)
        return -(error & ~NNG_ESYSERR);
    switch (error) {
#define X(theirs, ours) \
    case theirs:        \
        return -ours;
        NNG_ERRORS(X)
#undef X
    default:
        return -EIO;
    }
}
