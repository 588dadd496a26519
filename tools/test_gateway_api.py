"""What tools/gateway_api.py promises, checked without a network: Go is replaced by a script that unpacks a module."""

from __future__ import annotations

import tempfile
import unittest
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import gateway_api

GO = """#!/bin/sh
echo download >> "{log}"
if [ -e "{broken}" ]; then echo '{{"Error": "no such host"}}'; exit 1; fi
for channel in standard experimental; do
  mkdir -p "$GOMODCACHE/m/config/crd/$channel"
  echo "channel: $channel" > "$GOMODCACHE/m/config/crd/$channel/routes.yaml"
done
echo "{{\\"Dir\\": \\"$GOMODCACHE/m\\", \\"Sum\\": \\"h1:received\\"}}"
"""


class GatewayApiTest(unittest.TestCase):
    """A module of its own for each test, and a Go that stands for the real one."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.into = self.root / "tools"
        self.module = self.root / "module"
        self.module.mkdir()
        self.log, self.broken = self.root / "go.log", self.root / "broken"
        self.require("1.5.1", "h1:received")
        self.go = self.root / "go"
        self.go.write_text(GO.format(log=self.log, broken=self.broken))
        self.go.chmod(0o755)

    def require(self, version: str, digest: str) -> None:
        name = gateway_api.NAME
        (self.module / "go.mod").write_text(f"module m\n\ngo 1.24.0\n\nrequire {name} v{version}\n")
        (self.module / "go.sum").write_text(f"{name} v{version}/go.mod h1:other\n{name} v{version} {digest}\n")

    def definitions(self, **environment: str) -> Path:
        environment.setdefault("GO", str(self.go))
        environment.setdefault("PATH", "/usr/bin:/bin")
        with redirect_stderr(StringIO()):
            return gateway_api.definitions(self.into, environment, self.module)

    def failure(self, **environment: str) -> str:
        with self.assertRaises(gateway_api.FetchError) as caught:
            self.definitions(**environment)
        return str(caught.exception)

    def downloads(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def test_they_are_fetched_once_and_the_rest_of_the_module_is_removed(self) -> None:
        folder = self.definitions()
        for channel in ("standard", "experimental"):
            self.assertEqual((folder / channel / "routes.yaml").read_text(), f"channel: {channel}\n")
        self.assertEqual(self.definitions(), folder)
        self.assertEqual(self.downloads(), 1)
        self.assertFalse((self.into / "gateway-api-download").exists())

    def test_another_version_is_fetched_anew(self) -> None:
        first = self.definitions()
        self.require("1.6.0", "h1:received")
        self.assertNotEqual(self.definitions(), first)
        self.assertEqual(self.downloads(), 2)

    def test_a_wrong_digest_keeps_nothing(self) -> None:
        self.require("1.5.1", "h1:expected")
        message = self.failure()
        self.assertIn("h1:expected", message)
        self.assertIn("h1:received", message)
        self.assertFalse((self.into / "gateway-api-1.5.1").exists())

    def test_a_version_without_a_digest_is_not_kept(self) -> None:
        (self.module / "go.sum").write_text("")
        self.assertIn("go.sum", self.failure())

    def test_a_download_that_failed_says_why_and_does_not_count(self) -> None:
        self.broken.touch()
        message = self.failure()
        self.assertIn("no such host", message)
        self.assertIn("GATEWAY_API_CRDS", message)
        self.broken.unlink()
        self.definitions()
        self.assertEqual(self.downloads(), 2)

    def test_the_environment_names_a_folder_instead(self) -> None:
        folder = self.definitions()
        self.assertEqual(self.definitions(GATEWAY_API_CRDS=str(folder)), folder)
        (folder / "standard" / "routes.yaml").unlink()
        self.assertIn("standard", self.failure(GATEWAY_API_CRDS=str(folder)))


if __name__ == "__main__":
    unittest.main()
