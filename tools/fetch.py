#!/usr/bin/env python3
"""Fetches the real peers that the demo and the tests run against, pinned by version and digest, into target/tools.

    python3 tools/fetch.py envoy     the path of the executable is the only line on stdout; progress goes to stderr
    python3 tools/fetch.py all       every tool, one path a line
    python3 tools/fetch.py --list    what is pinned, and what is here

Needs Python 3.8 and pip, nothing else: pip is the client, so its own configuration (mirrors, proxies, certificates)
applies. A tool that is here costs nothing; runs at the same time wait for one another; a run that was interrupted is
continued by the next: a wheel counts only once it is complete and its digest is right.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = Path(__file__).resolve().parent / "pins.json"
STDERR = 2  # the file descriptor: what a tool says must not mix with the path on stdout


class FetchError(Exception):
    """What went wrong, and what to do about it."""


@dataclass(frozen=True)
class Wheel:
    """The file that holds a tool, for one kind of machine."""

    platform: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Tool:
    """One pinned tool, as pins.json has it."""

    name: str
    package: str
    version: str
    executable: str
    override: str
    wheels: Mapping[str, Wheel]
    tree: str = ""  # the folder of the wheel that the executable needs around it; without, it stands alone
    trial: List[str] = field(default_factory=lambda: ["--version"])  # arguments that succeed if it runs at all

    def place(self, folder: Path) -> Path:
        """Where the executable is, within the tool's own folder."""
        return folder / (Path(self.executable).relative_to(self.tree) if self.tree else self.name)

    def wheel(self, machine: str) -> Wheel:
        """The wheel for a kind of machine ("Linux-x86_64")."""
        if machine not in self.wheels:
            have = ", ".join(sorted(self.wheels))
            raise FetchError(
                f"{self.package} {self.version} is pinned for {have}, and this machine is {machine}.\n"
                f"Set {self.override}=/path/to/{self.name} to use an executable of your own."
            )
        return self.wheels[machine]


def read_pins(path: Path = PINS) -> Dict[str, Tool]:
    """The pinned tools by name."""
    tools = {}
    for name, pin in json.loads(path.read_text(encoding="utf-8")).items():
        wheels = {machine: Wheel(**wheel) for machine, wheel in pin.pop("wheels").items()}
        tools[name] = Tool(name=name, wheels=wheels, **pin)
    return tools


def this_machine() -> str:
    """The kind of this machine, as pins.json names it."""
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    machine = platform.machine().lower()
    return f"{platform.system()}-{names.get(machine, machine)}"


def fetch(tool: Tool, into: Path, machine: str, environment: Mapping[str, str]) -> Path:
    """The absolute path of the tool's executable; fetches it when it is not there."""
    own = environment.get(tool.override, "")
    if own:
        return overridden(tool, own)
    wheel = tool.wheel(machine)
    folder = into / f"{tool.name}-{tool.version}"
    executable = tool.place(folder)
    if is_present(folder, executable, wheel):
        return executable
    with locked(into / f"{tool.name}.lock"):
        if not is_present(folder, executable, wheel):
            archive = download(tool, wheel, into)
            install(tool, wheel, archive, folder, executable)
    return executable


def overridden(tool: Tool, own: str) -> Path:
    """The executable that the user named in the environment."""
    found = shutil.which(own)
    if found is None:
        raise FetchError(
            f"{tool.override}={own} is not an executable file.\n"
            f"Correct it, or unset {tool.override} to fetch {tool.name} {tool.version}."
        )
    say(f"{tool.name}: {found}, from the environment variable {tool.override}")
    return Path(found).absolute()


def is_present(folder: Path, executable: Path, wheel: Wheel) -> bool:
    """Whether the executable is there and came from the pinned wheel."""
    try:
        stamp = (folder / "stamp").read_text(encoding="ascii")
        return stamp == stamp_of(wheel, executable) and os.access(executable, os.X_OK)
    except OSError:
        return False


def stamp_of(wheel: Wheel, executable: Path) -> str:
    """What is written beside an executable once it is complete."""
    return f"sha256:{wheel.sha256} size:{executable.stat().st_size}\n"


def download(tool: Tool, wheel: Wheel, into: Path) -> Path:
    """The path of the verified wheel; pip fetches it unless an earlier run did."""
    downloads = into / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    archive = downloads / wheel.file
    if archive.exists() and digest(archive) == wheel.sha256:
        say(f"{tool.name}: {wheel.file} is already downloaded")
        return archive
    for leftover in downloads.glob(f"partial-{tool.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"partial-{tool.name}-", dir=downloads))
    try:
        run_pip(tool, wheel, into, partial)
        fetched = partial / wheel.file
        if not fetched.exists():
            names = ", ".join(sorted(entry.name for entry in partial.iterdir())) or "nothing"
            raise FetchError(f"pip was to download {wheel.file}, and left {names}.")
        verify(tool, wheel, fetched)
        os.replace(fetched, archive)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return archive


def verify(tool: Tool, wheel: Wheel, archive: Path) -> None:
    """Raises unless the archive is the pinned one."""
    found = digest(archive)
    if found != wheel.sha256:
        raise FetchError(
            f"the digest of {wheel.file} is wrong, and nothing of it is kept.\n"
            f"  expected sha256 {wheel.sha256} (tools/pins.json)\n"
            f"  received sha256 {found}\n"
            f"Do not use what was received: find out what stands between pip and the package index,\n"
            f"or set {tool.override}=/path/to/{tool.name} to use an executable of your own."
        )


def run_pip(tool: Tool, wheel: Wheel, into: Path, partial: Path) -> None:
    """Downloads the wheel into a folder of its own."""
    command = find_pip(tool, into) + ["download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--platform", wheel.platform]
    command += ["--dest", str(partial), f"{tool.package}=={tool.version}"]
    say(f"{tool.name}: downloading {tool.package} {tool.version} for {wheel.platform}")
    if run(command) != 0:
        raise FetchError(
            f"pip could not download {tool.package} {tool.version}; its reason stands above.\n"
            f"Tried: {shlex.join(command)}\n"
            f"Without a network, do one of these:\n"
            f"  copy {wheel.file} from another machine into {into / 'downloads'}\n"
            f"  set {tool.override}=/path/to/{tool.name} to use an executable of your own\n"
            f"Behind a proxy or mirror, configure pip (`python3 -m pip config list` shows what it uses)."
        )


def find_pip(tool: Tool, into: Path) -> List[str]:
    """The command that runs pip: this Python's, else that of a private virtual environment."""
    if runs([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip"]
    private = into / "venv"
    python = private / "bin" / "python3"
    if runs([str(python), "-m", "pip", "--version"]):
        return [str(python), "-m", "pip"]
    say("this Python has no pip: making a private virtual environment")
    shutil.rmtree(private, ignore_errors=True)
    if run([sys.executable, "-m", "venv", str(private)]) == 0:
        return [str(python), "-m", "pip"]
    shutil.rmtree(private, ignore_errors=True)
    raise FetchError(
        f"{sys.executable} has neither pip nor what it takes to make a virtual environment. Install one of them:\n"
        f"  Debian, Ubuntu: apt-get install python3-pip\n"
        f"  Fedora:         dnf install python3-pip\n"
        f"  Alpine, Arch:   the package py3-pip or python-pip\n"
        f"or set {tool.override}=/path/to/{tool.name} to use an executable of your own."
    )


def install(tool: Tool, wheel: Wheel, archive: Path, folder: Path, executable: Path) -> None:
    """Unpacks the executable, tries it, and stamps it as complete; the last step is the stamp."""
    say(f"{tool.name}: unpacking {executable}")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = executable if tool.tree else folder / f"{tool.name}.unfinished"
    try:
        with zipfile.ZipFile(archive) as packed:
            if tool.tree:
                unpack_tree(packed, tool.tree, folder)
            else:
                unpack_file(packed, packed.getinfo(tool.executable), unfinished)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel.file} holds no {tool.executable}: {error}. Correct tools/pins.json.") from error
    unfinished.chmod(0o755)
    if not runs([str(unfinished), *tool.trial]):
        raise FetchError(
            f"{tool.name} {tool.version} does not run on this machine; it was built for {wheel.platform}.\n"
            f"Try: {shlex.join([str(unfinished), *tool.trial])}\n"
            f"Set {tool.override}=/path/to/{tool.name} to use an executable of your own."
        )
    os.replace(unfinished, executable)
    (folder / "stamp").write_text(stamp_of(wheel, executable), encoding="ascii")


def unpack_tree(packed: zipfile.ZipFile, tree: str, folder: Path) -> None:
    """Unpacks what stands below a folder of the archive, executables as such; the digest of the archive is known."""
    for member in packed.infolist():
        if member.is_dir() or not member.filename.startswith(f"{tree}/"):
            continue
        target = folder / member.filename[len(tree) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        unpack_file(packed, member, target)
        if (member.external_attr >> 16) & 0o111:
            target.chmod(0o755)


def unpack_file(packed: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpacks one file."""
    with packed.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with this process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    state = hashlib.sha256()
    with path.open("rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def run(command: List[str]) -> int:
    """Runs a command whose words go to stderr; its exit code, 127 if it cannot be started."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=STDERR, check=False).returncode
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return 127


def runs(command: List[str]) -> bool:
    """Whether a command can be started and succeeds; silent."""
    silent = subprocess.DEVNULL
    try:
        return subprocess.run(command, stdin=silent, stdout=silent, stderr=silent, check=False).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    """Tells the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_paths(find: Callable[[], Iterable[Path]]) -> int:
    """Prints what `find` gives, a path a line, and tells on stderr what went wrong; the exit code."""
    try:
        for path in find():
            print(path, flush=True)
    except FetchError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run goes on or begins anew")
        return 130
    return 0


def listing(tools: Mapping[str, Tool], into: Path, machine: str) -> List[str]:
    """One line a tool: name, version, whether it is here."""
    lines = []
    for tool in tools.values():
        folder = into / f"{tool.name}-{tool.version}"
        wheel = tool.wheels.get(machine)
        if wheel is None:
            state = f"not pinned for {machine}; set {tool.override}"
        elif is_present(folder, tool.place(folder), wheel):
            state = str(tool.place(folder))
        else:
            state = "not fetched"
        lines.append(f"{tool.name} {tool.version}: {state}")
    return lines


def main(arguments: Optional[List[str]] = None) -> int:
    """Does what the command line says; the exit code."""
    tools = read_pins()
    parser = argparse.ArgumentParser(description="Fetches pinned tools into target/tools.")
    parser.add_argument("tool", nargs="?", choices=[*tools, "all"], help="what to fetch")
    parser.add_argument("--list", action="store_true", help="show what is pinned and what is here")
    options = parser.parse_args(arguments)
    into = REPOSITORY / "target" / "tools"
    if options.list:
        print("\n".join(listing(tools, into, this_machine())))
        return 0
    if options.tool is None:
        parser.error("name a tool, or all, or --list")
    wanted = list(tools.values()) if options.tool == "all" else [tools[options.tool]]
    return print_paths(lambda: (fetch(tool, into, this_machine(), os.environ) for tool in wanted))


if __name__ == "__main__":
    sys.exit(main())
