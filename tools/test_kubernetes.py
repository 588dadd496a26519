"""What tools/kubernetes.py promises, checked without a network: Go is replaced by a script that writes executables."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import unittest
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest import mock

import kubernetes

GO = """#!/bin/sh
if [ "$1 $2" = "env GOVERSION" ]; then echo go1.99.0; exit 0; fi
echo built >> "{log}"
[ -e "{broken}" ] && exit 3
while [ "$1" != "-o" ]; do shift; done
for name in kube-apiserver etcd kubectl; do printf '#!/bin/sh\\nexit 0\\n' > "$2$name"; chmod +x "$2$name"; done
mkdir -p "$GOCACHE"
"""


class KubernetesTest(unittest.TestCase):
    """A module of its own for each test, and a Go that stands for the real one."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.into = self.root / "tools"
        self.module = self.root / "module"
        self.module.mkdir()
        self.log, self.broken = self.root / "go.log", self.root / "broken"
        self.require("1.34.4")
        self.go = self.root / "go"
        self.go.write_text(GO.format(log=self.log, broken=self.broken))
        self.go.chmod(0o755)

    def require(self, version: str) -> None:
        (self.module / "go.mod").write_text(f"module m\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v{version}\n")

    def assets(self, **environment: str) -> Path:
        environment.setdefault("GO", str(self.go))
        environment.setdefault("PATH", "/usr/bin:/bin")
        with redirect_stderr(StringIO()):
            return kubernetes.assets(self.into, environment, self.module)

    def failure(self, **environment: str) -> str:
        with self.assertRaises(kubernetes.FetchError) as caught:
            self.assets(**environment)
        return str(caught.exception)

    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def test_they_are_built_once_and_what_it_took_is_removed(self) -> None:
        folder = self.assets()
        for name in ("kube-apiserver", "etcd", "kubectl"):
            self.assertEqual(subprocess.run([str(folder / name)], check=False).returncode, 0)
        self.assertEqual(self.assets(), folder)
        self.assertEqual(self.builds(), 1)
        self.assertFalse((self.into / "kubernetes-build").exists())

    def test_another_version_is_built_anew(self) -> None:
        first = self.assets()
        self.require("1.35.0")
        self.assertNotEqual(self.assets(), first)
        self.assertEqual(self.builds(), 2)

    def test_a_build_that_failed_names_what_was_tried_and_does_not_count(self) -> None:
        self.broken.touch()
        message = self.failure()
        self.assertIn("go build", message)
        self.assertIn("KUBEBUILDER_ASSETS", message)
        self.broken.unlink()
        self.assets()
        self.assertEqual(self.builds(), 2)

    def test_runs_at_the_same_time_build_once(self) -> None:
        environment = {"GO": str(self.go), "PATH": "/usr/bin:/bin"}
        with redirect_stderr(StringIO()):
            runs = [
                threading.Thread(target=kubernetes.assets, args=(self.into, environment, self.module))
                for _ in range(3)
            ]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
        self.assertEqual(self.builds(), 1)

    def test_the_environment_names_a_folder_instead(self) -> None:
        folder = self.assets()
        self.require("1.35.0")
        self.assertEqual(self.assets(KUBEBUILDER_ASSETS=str(folder)), folder)
        self.assertEqual(self.builds(), 1)

    def test_a_folder_without_etcd_is_told_so(self) -> None:
        folder = self.assets()
        (folder / "etcd").unlink()
        self.assertIn("etcd", self.failure(KUBEBUILDER_ASSETS=str(folder)))

    def test_an_old_go_is_passed_over_for_the_pinned_one(self) -> None:
        environment = {"PATH": "/usr/bin:/bin"}
        for version, expected in [("go1.23.9", "pinned"), ("go1.24.0", "installed"), ("", "pinned")]:
            with self.subTest(version=version), mock.patch.object(kubernetes.shutil, "which", lambda _: "installed"):
                with mock.patch.object(kubernetes, "go_version", lambda _: version):
                    with mock.patch.object(kubernetes, "fetch", lambda *_: Path("pinned")):
                        found = kubernetes.find_go(self.into, self.module, environment)
                self.assertEqual(str(found), expected)


class PinsTest(unittest.TestCase):
    """The committed module."""

    def test_every_part_of_kubernetes_has_the_version_of_the_whole(self) -> None:
        version = kubernetes.pinned(kubernetes.MODULE, "k8s.io/kubernetes")
        parts = [line for line in (kubernetes.MODULE / "go.mod").read_text().splitlines() if "=>" in line]
        self.assertGreater(len(parts), 20)
        for part in parts:
            self.assertTrue(part.endswith("v0." + version.split(".", 1)[1]), part)


if __name__ == "__main__":
    unittest.main()
