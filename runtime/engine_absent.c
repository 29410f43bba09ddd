/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"
/* Stands in for the engines whose files are not in the tree yet. */
#include <errno.h>

#include "runtime/context.h"

#ifndef HAVE_URING
int fdmon_uring_setup(AioContext *ctx)
{
    return -ENOSYS;
}
#endif

#ifndef HAVE_LINUX_AIO
int engine_linux_aio_setup(AioContext *ctx, uint32_t io_depth)
{
    return -ENOSYS;
}
#endif
