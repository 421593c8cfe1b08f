"""Unpacks programs of a newer Debian: ``python -m servers.debian FOLDER PACKAGE...``.

Nothing of the system is touched, and root is not needed: apt, with lists and a cache of its own,
fetches the packages with all they depend on and checks their signatures; they are unpacked, none of
their scripts runs. The programs are linked to a newer C library than the system's, so each is put
behind a small script that starts it with the loader and the libraries it came with. What it starts
in turn, such as ``/bin/sh``, is the system's again.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

RELEASE = "trixie"
ARCHIVE = "http://deb.debian.org/debian"
# Named by its release, so that a machine whose keys are older says so instead of apt.
KEYS = Path(f"/usr/share/keyrings/debian-archive-{RELEASE}-stable.gpg")


class UnpackFailed(RuntimeError):
    """The packages could not be fetched or unpacked."""


def unpack(folder: Path, packages: Sequence[str]) -> None:
    """Makes `folder` a tree with `packages` and what they need; what was there is removed.

    Raises UnpackFailed with what to do, or with what apt said.
    """
    folder = folder.absolute()
    _check_machine()
    shutil.rmtree(folder, ignore_errors=True)
    apt = folder / "apt"
    _write_apt(apt)
    _run("apt-get", "-c", apt / "conf", "update")
    _run("apt-get", "-c", apt / "conf", "install", "--download-only", "-y", *packages)
    for package in sorted((apt / "archives").glob("*.deb")):
        _run("dpkg-deb", "-x", package, folder)
    shutil.rmtree(apt)
    loader = next((folder / "usr/lib").glob("*-linux-gnu/ld-linux-*.so.*"), None)
    if loader is None:
        raise UnpackFailed(f"{', '.join(packages)} brought no loader of programs to {folder}")
    for program in list(_programs(folder / "usr")):
        _wrap(program, loader)
    erl = folder / "usr/lib/erlang/bin/erl"  # it looks for its files where the package puts them
    if erl.exists():
        erl.write_text(erl.read_text().replace("=/usr/lib/", f"={folder}/usr/lib/"))


def _check_machine() -> None:
    for command in ("apt-get", "dpkg-deb"):
        if not shutil.which(command):
            raise UnpackFailed(f"{command} was not found: Debian's packages are unpacked with it")
    if not KEYS.exists():
        raise UnpackFailed(
            f"{KEYS} is missing, the keys that Debian {RELEASE} is signed with: run 'apt-get "
            "install debian-archive-keyring' as root"
        )


def _write_apt(apt: Path) -> None:
    for part in ("lists/partial", "archives/partial", "none"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()  # nothing is installed: everything needed is fetched
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {ARCHIVE} {RELEASE} main\n")
    settings = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": apt / "none",
        "Dir::Etc::Preferences": apt / "none",
        "Dir::Etc::PreferencesParts": apt / "none",
        "Dir::State": apt,
        "Dir::State::Status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Log": apt,
        # The other user that apt downloads as may not be let into the folder.
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Retries": "3",
        "APT::Update::Error-Mode": "any",
    }
    (apt / "conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))


def _programs(folder: Path) -> Iterator[Path]:
    """The machine-code programs below a folder: not libraries, not links to programs."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or ".so" in path.name:
            continue
        if path.stat().st_mode & 0o111:
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _wrap(program: Path, loader: Path) -> None:
    real = program.with_name(f"{program.name}.real")
    program.rename(real)
    command = shlex.join(map(str, (loader, "--library-path", loader.parent, "--argv0")))
    program.write_text(f'#!/bin/sh\nexec {command} "$0" {shlex.quote(str(real))} "$@"\n')
    program.chmod(0o755)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnpackFailed(
            f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-1000:]}"
        )


def main(arguments: list[str]) -> int:
    """Unpacks into the first argument; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        unpack(Path(arguments[0]), arguments[1:])
    except UnpackFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
