"""Tests of tools/environment.py: pip is real, and packages are wheels made here."""

import hashlib
import subprocess
import tempfile
import unittest
import zipfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest import mock

import environment


class EnvironmentTest(unittest.TestCase):
    """What can go wrong between a list of packages and an environment with them."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.into = Path(folder.name) / "tools"
        self.folder = Path(folder.name) / "client"
        self.folder.mkdir()
        self.wheel = Path(folder.name) / "peer-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as packed:
            packed.writestr("peer.py", "VERSION = '1.0'\n")
            packed.writestr("peer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: peer\nVersion: 1.0\n")
            packed.writestr("peer-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            packed.writestr("peer-1.0.dist-info/RECORD", "")
        self.require(hashlib.sha256(self.wheel.read_bytes()).hexdigest())

    def require(self, digest: str) -> None:
        line = f"peer @ {self.wheel.as_uri()} --hash=sha256:{digest}\n"
        (self.folder / "requirements.txt").write_text(line)

    def make(self) -> Path:
        with redirect_stderr(StringIO()):
            return environment.python_of(self.folder, self.into)

    def test_it_is_made_once_and_anew_when_it_was_not_completed(self) -> None:
        python = self.make()
        found = subprocess.run([str(python), "-c", "import peer; print(peer.VERSION)"], capture_output=True, text=True)
        self.assertEqual(found.stdout, "1.0\n", found.stderr)
        with mock.patch.object(environment, "make", side_effect=AssertionError("made again")):
            self.assertEqual(self.make(), python)
        (self.into / "venv-client" / "stamp").unlink()
        with mock.patch.object(environment, "make") as made:
            self.make()
        made.assert_called_once()

    def test_a_wrong_digest_is_refused_and_named(self) -> None:
        self.require("0" * 64)
        with self.assertRaises(environment.FetchError) as caught:
            self.make()
        self.assertIn("requirements.txt", str(caught.exception))
        self.assertFalse((self.into / "venv-client" / "stamp").exists())

    def test_a_folder_without_a_list_is_named(self) -> None:
        (self.folder / "requirements.txt").unlink()
        with self.assertRaises(environment.FetchError) as caught:
            self.make()
        self.assertIn(str(self.folder), str(caught.exception))

    def test_a_python_without_venv_is_told_what_to_install(self) -> None:
        with mock.patch.object(environment, "run", lambda command: 1):
            with self.assertRaises(environment.FetchError) as caught:
                self.make()
        self.assertIn("apt-get install python3-venv", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
