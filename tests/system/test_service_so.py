# SPDX-License-Identifier: MIT
"""Services from shared objects, and the programs in examples/."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
GREETER = os.path.join(BUILD, "examples", "greeter", "greeter.so")
PING_CLIENT = os.path.join(BUILD, "examples", "ping_client")

HEADER = "#include <sherd/service.h>\n"
INCLUDE = os.path.join(BUILD, "dist", "include")

STARTS_A_THREAD = """
#include <pthread.h>
#include <unistd.h>
static void *idle(void *nothing) { for (;;) pause(); return nothing; }
__attribute__((constructor)) static void begin(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, idle, NULL);
}
"""
OF_ANOTHER_VERSION = HEADER + """
static const struct service_method methods[] = {{"m", (service_run_fn *)1, 0, ""}};
const struct service sherd_service = {SERVICE_ABI + 1, "other", "", methods, 1};
"""
SECOND_SYS = HEADER + """
static const struct service_method methods[] = {{"m", (service_run_fn *)1, 0, ""}};
const struct service sherd_service = {SERVICE_ABI, "sys", "", methods, 1};
"""
MISSES_A_SYMBOL = HEADER + """
extern int there_is_no_such_function(struct service_call *call);
static const struct service_method methods[] = {{"m", there_is_no_such_function, 0, ""}};
const struct service sherd_service = {SERVICE_ABI, "misses", "", methods, 1};
"""
CALLS_ITS_NEIGHBOUR = HEADER + """
#include <stdlib.h>
static int coroutine_fn ask(struct service_call *call)
{
    void *answer;
    size_t len;
    uint32_t next = (service_shard(call) + 1) % service_n_shards(call);
    int r = service_call_shard(call, next, "asker.who", NULL, 0, &answer, &len);
    r = r < 0 ? r : service_reply(call, answer, len);
    free(answer);
    return r;
}
static int coroutine_fn who(struct service_call *call)
{
    char text = (char)('0' + service_shard(call));
    return service_reply(call, &text, 1);
}
static const struct service_method methods[] = {{"ask", ask, 0, ""}, {"who", who, 0, ""}};
const struct service sherd_service = {SERVICE_ABI, "asker", "", methods, 2};
"""

# Its shard dies where it is to leave, and was not told so before.
IS_DRAINED = HEADER + """
#include <stdlib.h>
struct state { struct service_home *home; int is_draining; };
static int coroutine_fn is_draining(struct service_call *call)
{
    const struct state *state = service_state(call);
    return service_reply(call, state->is_draining ? "yes" : "no", state->is_draining ? 3 : 2);
}
static int start(struct service_home *home, const void *config, void **ret_state)
{
    struct state *state = calloc(1, sizeof(*state));
    (void)config;
    if (!state)
        return -1;
    state->home = home;
    *ret_state = state;
    return 0;
}
static void drain(void *opaque)
{
    struct state *state = opaque;
    state->is_draining = 1;
    service_count(state->home, 0, 1);
}
static void resume(void *opaque)
{
    struct state *state = opaque;
    state->is_draining = 0;
    service_count(state->home, 1, 1);
}
static void stop(void *opaque)
{
    struct state *state = opaque;
    if (!state->is_draining)
        abort();
    free(state);
}
static const struct service_counter counters[] = {
    {"drains", SERVICE_COUNTER, ""}, {"resumes", SERVICE_COUNTER, ""}};
static const struct service_method methods[] = {{"is_draining", is_draining, 0, ""}};
const struct service sherd_service = {.abi = SERVICE_ABI, .name = "drained", .help = "", .methods = methods,
    .n_methods = 1, .start = start, .stop = stop, .drain = drain, .resume = resume, .counters = counters,
    .n_counters = 2};
"""


class Greeter(harness.TestCase):
    def test_the_example_answers_in_each_shard_and_after_a_death(self):
        instance = self.start("--shards", "2", "--service", GREETER, "--set", "greeter.name=Ada")
        for shard in ("0", "1"):
            greeting = self.assertDone(instance.command("submit", "greeter.hello", "--shard", shard))
            self.assertIn(f"Hello Ada, this is shard {shard}", greeting.stdout)
        instance.kill_and_wait("shard", 1)
        greeting = self.assertDone(instance.command("submit", "greeter.hello", "--shard", "1"))
        self.assertIn("Hello Ada, this is shard 1", greeting.stdout)
        methods = self.assertDone(instance.command("submit", "sys.methods"))
        self.assertIn("greeter.hello", methods.stdout)
        self.assertEqual(instance.stop(), 0)

    def test_a_setting_it_does_not_know_keeps_the_instance_from_starting(self):
        result = self.instance().command("run", "--service", GREETER, "--set", "greeter.nme=Ada")
        self.assertRefused(result, "greeter.nme=Ada", "it has name (whom it greets)")


@unittest.skipUnless(os.path.exists(PING_CLIENT), "the example is not built")
class PingClient(harness.TestCase):
    def test_the_example_hears_each_shard_and_says_what_is_not_there(self):
        instance = self.start("--shards", "2")
        ping = subprocess.run([PING_CLIENT, instance.name, "0", "1"], env=instance.environment,
                              capture_output=True, text=True, timeout=harness.DEADLINE)
        self.assertDone(ping)
        self.assertEqual([line.split(":")[0] for line in ping.stdout.splitlines()], ["shard 0", "shard 1"])
        missing = subprocess.run([PING_CLIENT, instance.name, "7"], env=instance.environment,
                                 capture_output=True, text=True, timeout=harness.DEADLINE)
        self.assertEqual(missing.returncode, 1)
        nobody = subprocess.run([PING_CLIENT, "nobody", "0"], env=instance.environment,
                                capture_output=True, text=True, timeout=harness.DEADLINE)
        self.assertEqual(nobody.returncode, 1)
        self.assertIn("nobody", nobody.stderr)
        self.assertEqual(instance.stop(), 0)


@unittest.skipUnless(shutil.which("cc"), "there is no compiler")
class Built(harness.TestCase):
    """Objects that are built here, to be refused or not."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="sherd-test-so-")

    def tearDown(self):
        shutil.rmtree(self.folder)
        super().tearDown()

    def build(self, name, source):
        path = os.path.join(self.folder, name + ".so")
        subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-I", INCLUDE, "-x", "c", "-", "-o", path],
                       input=source, text=True, check=True)
        return path

    def assertNotLoaded(self, path, *texts):
        instance = self.instance()
        self.assertRefused(instance.command("run", "--service", path), *texts)
        self.assertIsNone(instance.status())

    def test_a_library_that_starts_a_thread_is_refused_by_name(self):
        path = self.build("threads", STARTS_A_THREAD)
        self.assertNotLoaded(path, path, "starts a thread")

    def test_a_library_that_is_no_service_is_refused_by_name(self):
        path = self.build("plain", "int nothing;")
        self.assertNotLoaded(path, path, "has no symbol sherd_service")

    def test_a_service_of_another_version_is_refused(self):
        path = self.build("other", OF_ANOTHER_VERSION)
        self.assertNotLoaded(path, path, "build it again")

    def test_a_second_service_of_the_same_name_is_refused(self):
        path = self.build("second", SECOND_SYS)
        self.assertNotLoaded(path, path, "a service named sys already")

    def test_a_missing_symbol_is_found_when_loading_not_when_calling(self):
        path = self.build("misses", MISSES_A_SYMBOL)
        self.assertNotLoaded(path, path, "there_is_no_such_function")

    def test_a_method_calls_another_shard_and_passes_its_answer_on(self):
        path = self.build("asker", CALLS_ITS_NEIGHBOUR)
        instance = self.start("--shards", "3", "--service", path)
        for shard in range(3):
            answer = self.assertDone(instance.command("submit", "asker.ask", "--shard", str(shard)))
            self.assertEqual(answer.stdout.strip(), str((shard + 1) % 3))
        self.assertEqual(instance.stop(), 0)

    def wait_for_hooks(self, instance, drains, resumes):
        def have_run():
            services = json.loads(self.assertDone(instance.command("services", "--json")).stdout)
            found = [(counters["drained.drains"], counters["drained.resumes"])
                     for counters in (shard["counters"] for shard in services["shards"])]
            return found == 2 * [(drains, resumes)]
        harness.wait_until(have_run, f"{drains} drains and {resumes} ends of one in each shard")

    def test_a_service_hears_of_a_drain_of_its_end_and_before_its_shard_leaves(self):
        instance = self.start("--shards", "2", "--service", self.build("drained", IS_DRAINED))
        for n in 1, 2:
            self.assertDone(instance.command("drain"))
            self.wait_for_hooks(instance, n, n - 1)
            self.assertDone(instance.command("drain", "--off"))
            self.wait_for_hooks(instance, n, n)
            for shard in "0", "1":
                answer = self.assertDone(instance.command("submit", "drained.is_draining", "--shard", shard))
                self.assertEqual(answer.stdout.strip(), "no")
        self.assertDone(instance.command("restart"))
        self.assertEqual(instance.stop(), 0)
        self.assertNotIn("SIGABRT", instance.log())


if __name__ == "__main__":
    harness.main()
