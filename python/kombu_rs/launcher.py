"""The command ``kombu-rs``; ``run`` runs a program with this package as its ``kombu``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ("main",)

USAGE = """\
usage: kombu-rs run CMD [ARG...]
       kombu-rs replay URL QUEUE [--limit N] [--option NAME=VALUE]...
       kombu-rs --version

run     runs CMD with `kombu` being kombu-rs, in its Python process and in those that it starts.
        For example: kombu-rs run celery -A tasks worker
replay  moves the dead letters in QUEUE back to the queues that they came from (Redis).
        For example: kombu-rs replay redis://localhost/0 celery.dead
"""

# Put first into PYTHONPATH: Python imports the sitecustomize in it at start.
HOOK_DIRECTORY = Path(__file__).resolve().parent / "_hook"

# Options with which Python does not look at PYTHONPATH (E, I) or does not import site (S).
_ISOLATING = frozenset("EIS")
# Options that take the next argument; what follows is not an option of Python.
_WITH_ARGUMENT = frozenset("WX")


class LaunchError(Exception):
    """The command cannot be run; the text says why.

    Arguments:
        text: what to tell the user.
        status: the exit status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def find_command(command: str) -> str:
    """Return the path of a command: beside our own Python first, then on PATH.

    Raises:
        LaunchError: there is no such command.
    """
    if os.sep in command:
        if os.path.isfile(command) and os.access(command, os.X_OK):
            return command
        raise LaunchError(f"cannot run {command!r}: it is not an executable file", 126)
    beside = str(Path(sys.executable).parent)
    found = shutil.which(command, path=beside) or shutil.which(command)
    if found is None:
        raise LaunchError(f"command not found: {command!r} (looked in {beside} and PATH)", 127)
    return found


def _isolating_option(arguments: list[str]) -> str | None:
    """The first of Python's own ``arguments`` that would switch the hook off."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
            continue
        if not argument.startswith("-") or argument in ("-", "--"):
            return None
        if argument.startswith("--"):
            continue
        for position, letter in enumerate(argument[1:], 2):
            if letter in _ISOLATING:
                return f"-{letter}"
            if letter in "cm":
                return None
            if letter in _WITH_ARGUMENT:
                skip = position == len(argument)
                break
    return None


def _shebang(path: str) -> list[str]:
    """The interpreter of a script and its arguments; empty for other files."""
    try:
        with open(path, "rb") as script:
            line = script.readline(512)
    except OSError:
        return []
    if not line.startswith(b"#!"):
        return []
    return line[2:].decode("utf-8", "replace").split()


def _refuse_isolated(path: str, arguments: list[str]) -> None:
    """Raise when the Python that ``path`` leads to would not import the hook."""
    interpreter = [path, *arguments]
    if not Path(path).name.startswith("python"):
        interpreter = _shebang(path)
        if interpreter and Path(interpreter[0]).name == "env":
            interpreter = [word for word in interpreter[1:] if word != "-S"]
    if not interpreter or not Path(interpreter[0]).name.startswith("python"):
        return
    option = _isolating_option(interpreter[1:])
    if option is not None:
        raise LaunchError(
            f"{path!r} runs Python with {option}, which ignores PYTHONPATH or sitecustomize, "
            "so kombu could not be replaced. Run it without that option",
            2,
        )


def environment(inherited: dict[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which every Python imports the hook."""
    hook = str(HOOK_DIRECTORY)
    others = [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = [hook, *(entry for entry in others if entry != hook)]
    return {**inherited, "PYTHONPATH": os.pathsep.join(path)}


def run(command: list[str]) -> None:
    """Become ``command``: same process id, signals and exit status. Returns never.

    Raises:
        LaunchError: it cannot be run.
    """
    if not command:
        raise LaunchError(f"run needs a command\n\n{USAGE}", 2)
    path = find_command(command[0])
    _refuse_isolated(path, command[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(path, [path, *command[1:]], environment(dict(os.environ)))
    except OSError as exc:
        raise LaunchError(f"cannot run {path!r}: {exc.strerror}", 126) from exc


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``kombu-rs``; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"kombu-rs {version('kombu-rs')}")
        return 0
    if arguments[:1] == ["replay"]:
        from ._replay import main as replay

        return replay(arguments[1:])
    try:
        if not arguments or arguments[0] != "run":
            given = f"unknown command {arguments[0]!r}\n\n" if arguments else ""
            raise LaunchError(f"{given}{USAGE}", 2)
        run(arguments[1:])
    except LaunchError as exc:
        print(f"kombu-rs: {exc}", file=sys.stderr)
        return exc.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
