# SPDX-License-Identifier: MIT
"""
harness - one instance of Sherd in a runtime directory of its own, for tests of the real programs

Why:   every system test starts the real `sherd`, waits for states, kills, and has to leave nothing.
Use:   class Restart(harness.TestCase):
           def test_a_killed_shard_comes_back(self):
               instance = self.start("--shards", "2")
               old = instance.shard(0)
               instance.kill(old)
               instance.wait_for_shard(0, incarnation=old["incarnation"] + 1)
       if __name__ == "__main__":
           harness.main()
Rules: states are waited for with a deadline (DEADLINE seconds, which no machine should reach),
       never slept for. What has to be seen under way is stopped there (SIGSTOP), or lasts until it is ended. Each case ends with a check that no process, file in /dev/shm or thread of
       the case is left, and that no wake-up was lost; a case that fails shows the instance's log.
Where: $SHERD is the program under test; without it, the one in $MESON_BUILD_ROOT. With
       $SHERD_TEST_ENGINE, instances run on that engine, but where a case names one itself.
       $SHERD_TEST_CHILDREN=threads says that the program's shards are threads: a case that kills one
       is skipped.
"""
import contextlib
import ctypes
import errno
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

DEADLINE = float(os.environ.get("SHERD_TEST_DEADLINE", "60"))
LONG = os.environ.get("SHERD_TEST_LONG") == "1"
LONGER = os.environ.get("SHERD_TEST_LONG") == "ci"  # than every day, by a minute in all
SANITIZED = os.environ.get("SHERD_TEST_SANITIZED") == "1"  # memory use says nothing then
ENGINE = os.environ.get("SHERD_TEST_ENGINE")  # for `run`, where a case names none
THREADS = os.environ.get("SHERD_TEST_CHILDREN") == "threads"  # of the supervisor's process, in a build for that
SHM = "/dev/shm"
LOST_WAKE_UP = "slept for half a second with messages waiting"  # as the supervisor's log says it


def program():
    path = os.environ.get("SHERD") or os.path.join(os.environ.get("MESON_BUILD_ROOT", "build"), "sherd")
    return os.path.abspath(path)


def sherd(*arguments, **options):
    """Runs a command to its end."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([program(), *arguments], capture_output=True, text=True, timeout=4 * DEADLINE,
                          **options)


def lasting_ms(time_ms):
    """For what has to be seen while it lasts, by commands that take longer with a sanitizer."""
    return str(time_ms * 10 if SANITIZED else time_ms)


def wait_until(condition, what, deadline=None):
    """Returns the first true value of condition(); fails after the deadline, saying what it waited for."""
    end = time.monotonic() + (deadline or DEADLINE)
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("waited in vain for: " + what)
        time.sleep(pause)  # between two looks, not for the state
        pause = min(pause * 1.5, 0.05)


def state_of(path):
    """Of a process or thread, by its folder in /proc: a letter, as proc(5) has it; X where it is gone."""
    try:
        with open(os.path.join(path, "stat")) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_alive(pid):
    """Whether the process is there and no zombie."""
    return state_of(f"/proc/{pid}") not in "ZX"


def is_stopped(pid):
    """Whether none of its threads runs on; so it is with the dead."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(state_of(f"/proc/{pid}/task/{tid}") in "TtZX" for tid in threads)


def deny(*numbers):
    """For preexec_fn: from here on these system calls fail with EPERM."""
    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                    ("k", ctypes.c_uint)]

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
    load_number, jump_if_equal, give_back = 0x20, 0x15, 0x06
    rows = [Filter(load_number, 0, 0, 0)]
    for number in numbers:
        rows += [Filter(jump_if_equal, 0, 1, number), Filter(give_back, 0, 0, 0x00050000 | errno.EPERM)]
    rows.append(Filter(give_back, 0, 0, 0x7fff0000))
    filters = (Filter * len(rows))(*rows)
    program = Program(len(filters), filters)
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    if (libc.prctl(set_no_new_privs, 1, 0, 0, 0) != 0 or
            libc.prctl(set_seccomp, mode_filter, ctypes.byref(program), 0, 0) != 0):
        os._exit(126)


def deny_io_uring():
    """As in many containers."""
    deny(425)  # io_uring_setup, on every machine


def deny_tracing():
    """As in most containers: ptrace() and process_vm_readv()."""
    deny(*({"x86_64": (101, 310), "aarch64": (117, 270)}[os.uname().machine]))


def send_signal(pid, signum):
    """The only kill() of the tests: one process, never a group. A process between two lives has no pid. One that is
    stopped stands still when this returns: until the signal reaches its last thread it would run on for a while."""
    if not pid:
        raise ProcessLookupError(errno.ESRCH, "no process lives there now")
    if pid < 0:
        raise ValueError(f"{pid} is no process")
    os.kill(pid, signum)
    if signum == signal.SIGSTOP:
        wait_until(lambda: is_stopped(pid), f"process {pid} to stand still")


@functools.cache
def own_tmpfs(megabytes):
    """A command before another that gives it a /dev/shm of that size; None where this user can't have one."""
    script = f'mount -t tmpfs -o size={megabytes}m,mode=1777 tmpfs /dev/shm && exec "$@"'
    flags = "-m" if os.geteuid() == 0 else "-rm"
    command = ["unshare", flags, "sh", "-c", script, "sh"]
    works = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else None


def enter_namespaces(pid):
    """A command before another that has it run where own_tmpfs() put that process."""
    flags = ["-m"] if os.geteuid() == 0 else ["-U", "-m", "--preserve-credentials"]
    return ["nsenter", "-t", str(pid), *flags, "--"]


def children_of(pid):
    """Names of a process's children, by pid."""
    names = {}
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        for child in children.read().split():
            with contextlib.suppress(OSError), open(f"/proc/{child}/comm") as comm:
                names[int(child)] = comm.read().strip()
    return names


def n_fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_files(pid):
    """What the fds of a process lead to, by number; those that are closed meanwhile are left out."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def n_maps(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return len(maps.readlines())


def n_sleeps(pid):
    """How often the threads of a process went to sleep: its wake-ups, however often others took its CPU."""
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as status:
            total += next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return total


class Instance:
    """An instance and its runtime directory. Made by TestCase.start() or TestCase.instance()."""

    def __init__(self, name="test", environment=None):
        self.name = name
        self.scratch = tempfile.mkdtemp(prefix="sherd-test-")
        self.runtime_dir = os.path.join(self.scratch, "run")
        self.gateway_socket = os.path.join(self.runtime_dir, name, "gateway")
        self.environment = {**os.environ, "SHERD_RUNTIME_DIR": self.runtime_dir, **(environment or {})}
        for journal in ("JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
            if journal not in (environment or {}):
                self.environment.pop(journal, None)
        self.log_path = os.path.join(self.scratch, "log")
        self.supervisor = None
        self.seen_pids = set()

    # ---- the commands ----

    def command(self, *arguments, **options):
        """Runs `sherd SUBCOMMAND ... --instance NAME` to its end and returns the finished process."""
        options.setdefault("timeout", 4 * DEADLINE)
        options.setdefault("env", self.environment)
        if not {"stdout", "capture_output"} & options.keys():
            options["capture_output"] = True
        if "input" not in options and "stdin" not in options:
            options["stdin"] = subprocess.DEVNULL
        binary = any(isinstance(a, bytes) for a in arguments) or isinstance(options.get("input"), bytes)
        options.setdefault("text", not binary)
        head, *rest = arguments
        return subprocess.run([program(), head, "--instance", self.name, *rest], **options)

    def popen(self, *arguments, **options):
        """Begins `sherd SUBCOMMAND ... --instance NAME`; whoever calls waits for its end."""
        options.setdefault("env", self.environment)
        options.setdefault("stdin", subprocess.DEVNULL)
        head, *rest = arguments
        return subprocess.Popen([program(), head, "--instance", self.name, *rest], **options)

    def run(self, *arguments, prefix=(), **options):
        """Begins `sherd run` with its log in self.log_path, without waiting. prefix: a command before it."""
        if ENGINE and not any(a.split("=")[0] == "--engine" for a in arguments):
            arguments += ("--engine", ENGINE)
        with open(self.log_path, "ab") as log:
            self.supervisor = subprocess.Popen(
                [*prefix, program(), "run", "--instance", self.name, *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        return self.supervisor

    def start(self, *arguments, **options):
        """run(), and waits until the instance is ready."""
        self.run(*arguments, **options)
        self.wait_ready()
        return self

    def stop(self):
        """`sherd stop`, and the supervisor's exit status."""
        result = self.command("stop")
        assert result.returncode == 0, f"stop: {result.stderr}"
        return self.wait_exit()

    def wait_exit(self, deadline=None):
        return self.supervisor.wait(deadline or DEADLINE)

    def log(self):
        with contextlib.suppress(FileNotFoundError), open(self.log_path, errors="replace") as log:
            return log.read()
        return ""

    # ---- states ----

    def status(self):
        """What `sherd status --json` says now; None where the instance is not there."""
        result = self.command("status", "--json", "--wait", "0")
        if not result.stdout:
            return None
        status = json.loads(result.stdout)
        self.seen_pids.update(p["pid"] for p in status["processes"] if p.get("pid"))
        return status

    def processes(self):
        return (self.status() or {"processes": []})["processes"]

    def process(self, role, shard=None):
        """The process of that role (and number), or None."""
        for process in self.processes():
            if process["role"] == role and (shard is None or process.get("shard") == shard):
                return process
        return None

    def shard(self, number):
        return self.process("shard", number)

    def gateway(self):
        return self.process("gateway")

    def wait_ready(self, deadline=None):
        """All processes are up."""
        def ready():
            if self.supervisor.poll() is not None:
                raise AssertionError(f"`sherd run` ended with {self.supervisor.returncode}")
            processes = self.processes()
            return processes and all(p["state"] == "up" for p in processes)
        wait_until(ready, "the instance to be ready", deadline)

    def wait_for(self, role, shard=None, deadline=None, **fields):
        """Waits until the process is up and has these fields (or others, with state=...); returns it.
        incarnation: that one or a later."""
        fields.setdefault("state", "up")

        def there():
            process = self.process(role, shard)
            fits = process and all(
                process[name] >= value if name == "incarnation" else process[name] == value
                for name, value in fields.items())
            return process if fits else None
        return wait_until(there, f"{role} {'' if shard is None else shard} with {fields}", deadline)

    def wait_for_shard(self, number, **fields):
        return self.wait_for("shard", number, **fields)

    def wait_for_log(self, text, deadline=None):
        wait_until(lambda: text in self.log(), f"'{text}' in the log", deadline)

    def kill(self, process, signum=signal.SIGKILL):
        """Sends a signal to a process (a pid, or an object of status)."""
        if THREADS and not isinstance(process, int) and process["role"] != "supervisor":
            raise unittest.SkipTest("shards and gateway are threads, none of which dies alone")
        send_signal(process if isinstance(process, int) else process["pid"], signum)

    def kill_and_wait(self, role, shard=None, signum=signal.SIGKILL):
        """Kills a process and returns its replacement, once that is up."""
        old = self.wait_for(role, shard)
        self.kill(old, signum)
        return self.wait_for(role, shard, incarnation=old["incarnation"] + 1)

    def kill_all(self):
        """kill -9 of everything at once: stopped first, so that nobody sees another's death, and the supervisor before
        the others are looked for, so that none is born meanwhile."""
        send_signal(self.supervisor.pid, signal.SIGSTOP)
        pids = [self.supervisor.pid, *children_of(self.supervisor.pid)]
        self.seen_pids.update(pids)
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    send_signal(pid, signum)
        self.supervisor.wait(DEADLINE)
        wait_until(lambda: not any(map(is_alive, pids)), "all killed processes to be gone")

    # ---- what is left ----

    def pids(self):
        """Processes that were forked for this instance, known by the runtime directory in their
        environment."""
        mark = f"SHERD_RUNTIME_DIR={self.runtime_dir}".encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:
                if mark in environ.read().split(b"\0") and int(pid) != os.getpid() and is_alive(pid):
                    found.append(int(pid))
        return found

    def segments(self):
        """Files of this instance in /dev/shm: those whose .dir link names its runtime directory."""
        found = []
        mine = os.path.join(self.runtime_dir, self.name)
        for name in os.listdir(SHM):
            if name.startswith("sherd-") and name.endswith(".dir"):
                with contextlib.suppress(OSError):
                    if os.readlink(os.path.join(SHM, name)) == mine:
                        found.append(name[:-len(".dir")])
        return found

    def clean_up(self):
        """Ends what still runs and removes all files. Returns what an orderly end would not have left."""
        left = []
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                send_signal(pid, signal.SIGCONT)  # a case that failed may have left it stopped
        if self.supervisor and self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGTERM)
            try:
                self.supervisor.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                left.append("the supervisor did not leave on SIGTERM")
                self.supervisor.kill()
                self.supervisor.wait()
        deadline = time.monotonic() + DEADLINE
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.01)  # the deaths of processes that are not our children
        for pid in self.pids():
            left.append(f"process {pid}")
            with contextlib.suppress(ProcessLookupError):
                send_signal(pid, signal.SIGKILL)
        crashed = set()
        for number in (1, 2, 3):
            with contextlib.suppress(OSError):
                crashed.add(os.path.basename(os.readlink(
                    os.path.join(self.runtime_dir, self.name, f"crashed-{number}"))))
        with contextlib.suppress(OSError):
            crashed.add(os.path.basename(os.readlink(
                os.path.join(self.runtime_dir, self.name, "segment"))))
        for name in self.segments():
            if name not in crashed:
                left.append(f"{SHM}/{name}")
            for path in (name, name + ".dir"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(SHM, path))
        shutil.rmtree(self.scratch, ignore_errors=True)
        return left


class TestCase(unittest.TestCase):
    """A case with instances, which are ended and checked after it: nothing is left, and nobody had to be knocked at."""

    def setUp(self):
        self.breaks_commons = False  # a case that damages the shared memory on purpose says so
        self._instances = []
        self._ports = []
        self._n_fds = n_fds("self")

    def instance(self, name="test", environment=None):
        """An instance that is not started yet."""
        instance = Instance(name, environment)
        self._instances.append(instance)
        return instance

    def free_port(self):
        """A TCP port that is nobody else's until the case ends: it stays bound here, where nobody listens, so that the
        kernel gives it to no other; who listens there has SO_REUSEADDR too."""
        keeper = socket.socket()
        self._ports.append(keeper)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        return keeper.getsockname()[1]

    def start(self, *arguments, name="test", environment=None, **options):
        """An instance that is ready."""
        return self.instance(name, environment).start(*arguments, **options)

    def tearDown(self):
        failed = any(error for _, error in getattr(self._outcome, "errors", ())) or any(
            case is self for case, _ in [*self._result().failures, *self._result().errors])
        left = []
        for instance in self._instances:
            log = instance.log()
            of_this = instance.clean_up()
            if LOST_WAKE_UP in log and not self.breaks_commons:
                of_this.append("a lost wake-up: " + next(line for line in log.splitlines() if LOST_WAKE_UP in line))
            if failed or of_this:
                sys.stderr.write(f"--- log of instance {instance.name} ---\n{instance.log() or log}---\n")
            left += of_this
        self._instances.clear()
        for keeper in self._ports:
            keeper.close()
        self.assertEqual(left, [], "the case left something behind")
        self.assertEqual(n_fds("self"), self._n_fds, "the test leaked an fd")

    def _result(self):
        return getattr(self._outcome, "result", None) or unittest.TestResult()

    def assertDone(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def assertRefused(self, result, *texts, status=1):
        """It failed with one line that holds all texts, and did nothing else."""
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        for text in texts:
            self.assertIn(text, result.stderr)


def main():
    unittest.main(verbosity=2)
