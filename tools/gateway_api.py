#!/usr/bin/env python3
"""Fetches the CRDs of the Gateway API from its published Go module into target/tools, for tests against a real API server.

    python3 tools/gateway_api.py    the folder that holds `standard` and `experimental` is the only line on stdout

tools/gateway-api/go.mod pins the version and go.sum the digest. Go is found as tools/kubernetes.py says, and the module
proxy follows Go's own environment (GOPROXY). What is here costs nothing; runs at the same time wait for one another.
GATEWAY_API_CRDS=/folder names a folder of your own that has both.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Mapping, Optional

from fetch import REPOSITORY, FetchError, locked, print_paths, say
from kubernetes import find_go, go_environment, pinned, stamp_of

MODULE = Path(__file__).resolve().parent / "gateway-api"
NAME = "sigs.k8s.io/gateway-api"
OVERRIDE = "GATEWAY_API_CRDS"
CHANNELS = ("standard", "experimental")


def definitions(into: Path, environment: Mapping[str, str], module: Path = MODULE) -> Path:
    """The absolute path of the folder that holds the CRDs of each channel; fetches them when they are not there."""
    own = environment.get(OVERRIDE, "")
    if own:
        return overridden(Path(own))
    version = pinned(module, NAME)
    folder = into / f"gateway-api-{version}"
    stamp = stamp_of(module)
    if is_present(folder, stamp):
        return folder
    with locked(into / "gateway-api.lock"):
        if not is_present(folder, stamp):
            take(module, version, folder, into / "gateway-api-download", find_go(into, module, environment), environment)
            (folder / "stamp").write_text(stamp, encoding="ascii")
    return folder


def overridden(folder: Path) -> Path:
    """The folder that the user named in the environment."""
    missing = [name for name in CHANNELS if not any((folder / name).glob("*.yaml"))]
    if missing:
        raise FetchError(
            f"{OVERRIDE}={folder} has no YAML in {' and none in '.join(missing)}.\n"
            f"Correct it, or unset {OVERRIDE} to fetch the pinned CRDs."
        )
    say(f"gateway-api: {folder}, from the environment variable {OVERRIDE}")
    return folder.absolute()


def is_present(folder: Path, stamp: str) -> bool:
    """Whether the CRDs are there and come from the pinned module."""
    try:
        return (folder / "stamp").read_text(encoding="ascii") == stamp
    except OSError:
        return False


def take(
    module: Path, version: str, folder: Path, scratch: Path, go: Path, environment: Mapping[str, str]
) -> None:
    """Downloads the module, checks its digest, and keeps the CRDs of it."""
    say(f"gateway-api: downloading {NAME} {version} with {go}")
    command = [str(go), "mod", "download", "-json", "-modcacherw", f"{NAME}@v{version}"]
    try:
        done = subprocess.run(
            command,
            cwd=module,
            env=go_environment(scratch, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        told = json.loads(done.stdout or "{}")
    except (OSError, ValueError) as error:
        told = {"Error": str(error)}
    if "Dir" not in told:
        raise FetchError(
            f"Go could not download {NAME} {version}: {told.get('Error', 'it said nothing')}\n"
            f"Tried, in {module}: {shlex.join(command)}\n"
            f"Without a network, set {OVERRIDE}=/folder that has the folders {' and '.join(CHANNELS)} of its config/crd;\n"
            f"behind a proxy or mirror, set GOPROXY (`go env GOPROXY` shows what is used)."
        )
    expected = digest_of(module, version)
    if told.get("Sum") != expected:
        raise FetchError(
            f"the digest of {NAME} {version} is wrong, and nothing of it is kept.\n"
            f"  expected {expected} (tools/gateway-api/go.sum)\n"
            f"  received {told.get('Sum')}\n"
            f"Do not use what was received: find out what stands between Go and the module proxy."
        )
    shutil.rmtree(folder, ignore_errors=True)
    for channel in CHANNELS:
        shutil.copytree(Path(told["Dir"]) / "config" / "crd" / channel, folder / channel)
    shutil.rmtree(scratch, ignore_errors=True)


def digest_of(module: Path, version: str) -> str:
    """What go.sum says of the module."""
    for line in (module / "go.sum").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{NAME} v{version} "):
            return line.rsplit(" ", 1)[1]
    raise FetchError(f"{module / 'go.sum'} has no digest of {NAME} v{version}. Restore the file.")


def main(arguments: Optional[List[str]] = None) -> int:
    """Does what the command line says; the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        say(str(__doc__))
        return 2
    return print_paths(lambda: [definitions(REPOSITORY / "target" / "tools", os.environ)])


if __name__ == "__main__":
    sys.exit(main())
