#!/usr/bin/env python3
"""Builds kube-apiserver, etcd and kubectl from their published Go modules into target/tools, for tests that need a real one.

    python3 tools/kubernetes.py     the folder that holds them is the only line on stdout; progress goes to stderr

tools/kubernetes/go.mod pins what is built and go.sum its digests. Go is the `go` of this machine if it is recent
enough, else fetched as tools/fetch.py says. The module proxy and all else follow Go's own environment (GOPROXY).
Executables that are here cost nothing; runs at the same time wait for one another; a build that was interrupted is
continued by the next. KUBEBUILDER_ASSETS=/folder names a folder of your own that has them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from fetch import REPOSITORY, FetchError, fetch, locked, print_paths, read_pins, runs, say, this_machine

MODULE = Path(__file__).resolve().parent / "kubernetes"
OVERRIDE = "KUBEBUILDER_ASSETS"
EXECUTABLES = ("kube-apiserver", "etcd", "kubectl")
STDERR = 2


def assets(into: Path, environment: Mapping[str, str], module: Path = MODULE) -> Path:
    """The absolute path of the folder that holds the executables; builds them when they are not there."""
    own = environment.get(OVERRIDE, "")
    if own:
        return overridden(Path(own))
    version = pinned(module, "k8s.io/kubernetes")
    folder = into / f"kubernetes-{version}"
    stamp = stamp_of(module)
    if is_present(folder, stamp):
        return folder
    with locked(into / "kubernetes.lock"):
        if not is_present(folder, stamp):
            build(module, version, folder, into / "kubernetes-build", find_go(into, module, environment), environment)
            (folder / "stamp").write_text(stamp, encoding="ascii")
    return folder


def overridden(folder: Path) -> Path:
    """The folder that the user named in the environment."""
    missing = [name for name in EXECUTABLES if not os.access(folder / name, os.X_OK)]
    if missing:
        raise FetchError(
            f"{OVERRIDE}={folder} has no executable {' and no '.join(missing)}.\n"
            f"Correct it, or unset {OVERRIDE} to build them."
        )
    say(f"kubernetes: {folder}, from the environment variable {OVERRIDE}")
    return folder.absolute()


def pinned(module: Path, name: str) -> str:
    """The version of a module that go.mod requires, without its `v`."""
    text = (module / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^(?:require)?\s*{re.escape(name)} v(\S+)", text, re.MULTILINE)
    if found is None:
        raise FetchError(f"{module / 'go.mod'} requires no {name}. Restore the file.")
    return found.group(1)


def stamp_of(module: Path) -> str:
    """What is written beside the executables once they are complete: the digest of all that they are built from."""
    state = hashlib.sha256()
    for source in sorted(path for path in module.rglob("*") if path.is_file()):
        state.update(str(source.relative_to(module)).encode() + b"\0" + source.read_bytes() + b"\0")
    return f"sha256:{state.hexdigest()}\n"


def is_present(folder: Path, stamp: str) -> bool:
    """Whether the executables are there and come from these sources."""
    try:
        complete = (folder / "stamp").read_text(encoding="ascii") == stamp
    except OSError:
        return False
    return complete and all(os.access(folder / name, os.X_OK) for name in EXECUTABLES)


def find_go(into: Path, module: Path, environment: Mapping[str, str]) -> Path:
    """The `go` to build with: the environment's GO, this machine's if it is recent enough, else the pinned one."""
    pin = read_pins()["go"]
    installed = shutil.which("go")
    if environment.get(pin.override) or installed is None:
        return fetch(pin, into, this_machine(), environment)
    needed = re.search(r"^go (\S+)", (module / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    if needed and version_of(go_version(Path(installed))) >= version_of(needed.group(1)):
        return Path(installed)
    return fetch(pin, into, this_machine(), environment)


def go_version(go: Path) -> str:
    """What `go env GOVERSION` says, empty if it says nothing."""
    environment = dict(os.environ, GOTOOLCHAIN="local")
    try:
        command = [str(go), "env", "GOVERSION"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def version_of(text: str) -> Tuple[int, ...]:
    """The numbers of a version: `go1.26.6` and `1.24` are (1, 26, 6) and (1, 24)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def build(
    module: Path, version: str, folder: Path, scratch: Path, go: Path, environment: Mapping[str, str]
) -> None:
    """Builds the executables and tries them; what it takes on the way, 5 GB, is removed once they are there."""
    say(f"kubernetes: building kube-apiserver {version}, etcd and kubectl with {go}; this takes some minutes, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion=v{version}"
    packages = [f"./{name}" for name in EXECUTABLES]
    command = [str(go), "build", "-trimpath", "-buildvcs=false", "-modcacherw", "-ldflags", flags]
    command += ["-o", f"{folder}{os.sep}", *packages]
    if run_go(command, module, go_environment(scratch, environment)) != 0:
        raise FetchError(
            f"Go could not build kube-apiserver, etcd and kubectl; its reason stands above.\n"
            f"Tried, in {module}: {shlex.join(command)}\n"
            f"Without a network, set {OVERRIDE}=/folder that has all three;\n"
            f"behind a proxy or mirror, set GOPROXY (`go env GOPROXY` shows what is used)."
        )
    for name in EXECUTABLES:
        if not runs([str(folder / name), "--help"]):
            raise FetchError(f"{folder / name} was built and does not run. Try: {folder / name} --help")
    shutil.rmtree(scratch, ignore_errors=True)


def go_environment(scratch: Path, environment: Mapping[str, str]) -> Dict[str, str]:
    """Go's own settings, but caches that can be removed, and neither a C compiler nor a workspace around us."""
    own = {"GOMODCACHE": str(scratch / "modules"), "GOCACHE": str(scratch / "cache"), "GOFLAGS": ""}
    return {**environment, **own, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def run_go(command: List[str], module: Path, environment: Mapping[str, str]) -> int:
    """Runs Go, whose words go to stderr; its exit code."""
    try:
        done = subprocess.run(
            command, cwd=module, env=dict(environment), stdin=subprocess.DEVNULL, stdout=STDERR, check=False
        )
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return 127
    return done.returncode


def main(arguments: Optional[List[str]] = None) -> int:
    """Does what the command line says; the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        say(str(__doc__))
        return 2
    return print_paths(lambda: [assets(REPOSITORY / "target" / "tools", os.environ)])


if __name__ == "__main__":
    sys.exit(main())
