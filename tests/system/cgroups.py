# SPDX-License-Identifier: MIT
"""
cgroups - control groups of a test's own, version 1 or 2

Use:   folder = self.enterContext(cgroups.memory(96 * MIB))   # skips the case where there can be none
       self.start("--shards", "2", preexec_fn=cgroups.enter(folder))
Rules: a group goes with the case, after the instances in it.
"""
import contextlib
import os
import unittest

from harness import wait_until

MOUNT = "/sys/fs/cgroup"
MIB = 1 << 20


def own_groups():
    """By controller ("" for version 2), the path of our own group."""
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                yield controller, path


@contextlib.contextmanager
def group(controller, settings):
    """The folder of a new group below our own; skips the case where there can be none. settings: what is written where,
    by version; files that the kernel does not have are left out."""
    groups = dict(own_groups())
    version = 1 if controller in groups else 2
    folder = os.path.join(MOUNT, controller if version == 1 else "", groups.get(controller, groups.get("", "/")).lstrip("/"),
                          f"sherd-test-{os.getpid()}")
    try:
        os.mkdir(folder)
    except OSError as error:
        raise unittest.SkipTest(f"no control group can be made here: {error}")
    try:
        for name, text in settings[version].items():
            try:
                write(folder, name, text)
            except FileNotFoundError:
                if name == next(iter(settings[version])):
                    raise unittest.SkipTest(f"there is no controller {controller} in {folder}")
            except OSError as error:
                raise unittest.SkipTest(f"{folder}/{name}: {error}")
        yield folder
    finally:
        # A group goes once its last process is reaped.
        wait_until(lambda: remove(folder), f"{folder} to be empty")


def write(folder, name, text):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    with open(path, "w") as file:
        file.write(text)


def remove(folder):
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not os.path.exists(folder)


def memory(limit):
    """A group in which processes have so many bytes together, and no swap."""
    return group("memory", {1: {"memory.limit_in_bytes": str(limit), "memory.memsw.limit_in_bytes": str(limit)},
                            2: {"memory.max": str(limit), "memory.swap.max": "0"}})


def enter(folder):
    """For preexec_fn."""
    return lambda: write(folder, "cgroup.procs", str(os.getpid()))
