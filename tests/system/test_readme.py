# SPDX-License-Identifier: MIT
"""What README.md says to type does what it says."""
import os
import re
import subprocess
import tempfile

import harness

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
DATA = b"some bytes\n"


def commands():
    """The lines that are to be typed, with the program under test in them, without comments."""
    with open(README, encoding="utf-8") as readme:
        lines = re.findall(r"^    \$ (.*build/sherd .*?)(?:  +#.*)?$", readme.read(), re.M)
    return [line.replace("build/sherd", '"$SHERD"') for line in lines]


class Readme(harness.TestCase):
    def shell(self, instance, line, folder):
        environment = {**instance.environment, "SHERD": harness.program()}
        return subprocess.run(["bash", "-c", "set -o pipefail; " + line], env=environment, cwd=folder,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=10 * harness.DEADLINE)

    def check(self, line, result, folder):
        if "file.sha256 /usr/bin/*" in line:
            theirs = subprocess.run("sha256sum /usr/bin/*", shell=True, capture_output=True)
            self.assertEqual(result.stdout, theirs.stdout)
            self.assertEqual(result.returncode, theirs.returncode)
            return
        self.assertEqual(result.returncode, 0, f"{line}: {result.stderr.decode(errors='replace')[-2000:]}")
        if "file.read" in line:
            with open("/etc/services", "rb") as services:
                services.seek(4096)
                self.assertEqual(result.stdout, services.read(100))
        if "file.write" in line:
            with open(os.path.join(folder, "FILE"), "rb") as written:
                self.assertEqual(written.read(), DATA)
        if "sys.ping --shard 1" in line:
            self.assertIn(b"pong from shard 1 ", result.stdout)

    def test_each_command_by_hand_does_what_it_says(self):
        first, *rest = commands()
        options = re.fullmatch(r'"\$SHERD" run (.*) --instance demo (.*) &', first)
        self.assertTrue(options and rest and rest[-1].endswith(" stop --instance demo"))
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "data"), "wb") as data:
                data.write(DATA)
            instance = self.start(*options[1].split(), *options[2].split(), "--root", folder + ":rw",
                                  name="demo")
            for line in rest:
                self.check(line, self.shell(instance, line, folder), folder)
            self.assertEqual(instance.wait_exit(), 0)


if __name__ == "__main__":
    harness.main()
