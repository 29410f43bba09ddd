/* SPDX-License-Identifier: MIT */
#include "shard/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "shard/capabilities.h"
#include "shard/explain.h"

int user_find(const char *name, struct user *ret_user, char **ret_error)
{
    struct passwd *entry;

    errno = 0;
    entry = getpwnam(name);
    if (!entry)
        return explain(ret_error, -ENOENT, "--user %s: %s", name,
            errno ? strerror(errno) : "there is no such user");
    if (geteuid() != 0 && geteuid() != entry->pw_uid)
        return explain(ret_error, -EPERM, "--user %s: only root may become another user", name);
    *ret_user = (struct user){.uid = entry->pw_uid, .gid = entry->pw_gid};
    return 0;
}

int user_become(const char *name, const struct user *user, char **ret_error)
{
    int r;

    if (geteuid() == user->uid)
        return 0;
    r = user->uid == 0 ? 0 : capabilities_bound();
    if (r < 0)
        return explain(ret_error, r, "--user %s: capabilities: %s", name, strerror(-r));
    if (initgroups(name, user->gid) < 0)
        return explain(ret_error, -errno, "--user %s: groups: %m", name);
    if (setresgid(user->gid, user->gid, user->gid) < 0)
        return explain(ret_error, -errno, "--user %s: group %u: %m", name, (unsigned)user->gid);
    if (setresuid(user->uid, user->uid, user->uid) < 0)
        return explain(ret_error, -errno, "--user %s: user %u: %m", name, (unsigned)user->uid);
    if (user->uid != 0 && setuid(0) == 0)
        return explain(ret_error, -EPERM, "--user %s: root's rights did not go", name);
    prctl(PR_SET_DUMPABLE, 1);
    return 0;
}
