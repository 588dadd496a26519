#!/usr/bin/env python3
"""Makes a virtual environment of pinned Python packages for tests that run a real client, below target/tools.

    python3 tools/environment.py simulator/tests/openai     the path of its python is the only line on stdout

The folder has a requirements.txt with a version and digests for each package, what they need included; pip refuses
anything else. Needs Python 3.9 with venv. pip is the client, so its own configuration (mirrors, proxies,
certificates) applies. An environment that is here costs nothing; runs at the same time wait for one another; one that
was interrupted is made anew: an environment counts only once it is complete.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from pathlib import Path
from typing import List, Optional

from fetch import REPOSITORY, FetchError, locked, print_paths, run, runs, say

OLDEST = (3, 9)


def python_of(folder: Path, into: Path) -> Path:
    """The absolute path of the python of a folder's environment; makes it when it is not there."""
    requirements = folder / "requirements.txt"
    if not requirements.is_file():
        raise FetchError(f"{requirements} is missing: name a folder that has a requirements.txt.")
    if sys.version_info < OLDEST:
        have, oldest = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, OLDEST))
        raise FetchError(f"{sys.executable} is Python {have}, and {oldest} is needed: run this with a later one.")
    name = f"venv-{folder.resolve().name}"
    target = into / name
    python = target / "bin" / "python3"
    stamp = stamp_of(requirements)
    if is_present(target, python, stamp):
        return python
    with locked(into / f"{name}.lock"):
        if not is_present(target, python, stamp):
            make(target, python, requirements)
            (target / "stamp").write_text(stamp, encoding="ascii")
    return python


def stamp_of(requirements: Path) -> str:
    """What is written into an environment once it is complete: which packages, for which Python."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    return f"sha256:{digest} python:{sys.version_info[0]}.{sys.version_info[1]}\n"


def is_present(target: Path, python: Path, stamp: str) -> bool:
    """Whether a complete environment of these packages is there and runs."""
    try:
        complete = (target / "stamp").read_text(encoding="ascii") == stamp
    except OSError:
        return False
    return complete and runs([str(python), "-c", ""])


def make(target: Path, python: Path, requirements: Path) -> None:
    """Makes the environment; what was there is removed first."""
    say(f"{target.name}: installing {requirements}")
    shutil.rmtree(target, ignore_errors=True)
    if run([sys.executable, "-m", "venv", str(target)]) != 0:
        shutil.rmtree(target, ignore_errors=True)
        raise FetchError(
            f"{sys.executable} cannot make a virtual environment; its reason stands above. Install what it takes:\n"
            f"  Debian, Ubuntu: apt-get install python3-venv\n"
            f"  Fedora, Alpine, Arch: it is part of the package python3 or python"
        )
    command = [str(python), "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--requirement", str(requirements)]
    if run(command) != 0:
        raise FetchError(
            f"pip could not install {requirements}; its reason stands above.\n"
            f"Tried: {shlex.join(command)}\n"
            f"Behind a proxy or mirror, configure pip (`python3 -m pip config list` shows what it uses)."
        )


def main(arguments: Optional[List[str]] = None) -> int:
    """Does what the command line says; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0].startswith("-"):
        say(str(__doc__))
        return 2
    return print_paths(lambda: [python_of(Path(given[0]), REPOSITORY / "target" / "tools")])


if __name__ == "__main__":
    sys.exit(main())
