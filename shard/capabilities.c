/* SPDX-License-Identifier: MIT */
#include "shard/capabilities.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int capabilities_bound(void)
{
    /* Up to the last that the kernel has. */
    for (unsigned long n = 0; prctl(PR_CAPBSET_READ, n, 0, 0, 0) >= 0; n++)
        if (prctl(PR_CAPBSET_DROP, n, 0, 0, 0) < 0)
            return errno == EPERM ? 0 : -errno;
    return 0;
}

int capabilities_drop(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    int r = capabilities_bound();

    if (r == 0 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        r = -errno;
    if (r == 0 && syscall(SYS_capset, &header, none) < 0)
        r = -errno;
    return r;
}
