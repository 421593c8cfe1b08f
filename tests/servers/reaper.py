"""Ends what a test run started, however that run ended.

A small process in a session of its own holds the reading end of a pipe whose writing end is in
the test process. When the pipe closes (normal end, Ctrl-C, kill -9), it kills the sessions and
removes the folders that were handed to it and not taken back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_owner = 0


def adopt_session(pid: int) -> None:
    """Kill the session led by child `pid` (`start_new_session=True`) when this process ends."""
    _tell(f"session {pid} {start_time(pid) or 0}")


def release_session(pid: int) -> None:
    """The session led by `pid` has been ended in order."""
    _tell(f"released {pid}")


def adopt_folder(path: Path | str) -> None:
    """Remove the folder `path` when this process ends."""
    _tell(f"folder {path}")


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot: two with one id differ in it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def session_members(leader: int, started: int) -> list[int]:
    """The processes of the session that `leader`, started at tick `started`, has made."""
    now = start_time(leader)
    if now is not None and now != started:
        return []  # the id has been given to somebody else
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(entry.name))
    return members


def kill_session(leader: int, started: int) -> None:
    """SIGKILL every process of a session."""
    for pid in session_members(leader, started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tell(line: str) -> None:
    global _process, _owner
    with _lock:
        if _process is None or _owner != os.getpid():
            _process = subprocess.Popen(
                [sys.executable, "-E", "-s", __file__],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            _owner = os.getpid()
            atexit.register(_finish, _process, _owner)
        assert _process.stdin is not None
        _process.stdin.write(line.encode() + b"\n")
        _process.stdin.flush()


def _finish(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner and process.stdin is not None:
        process.stdin.close()
        process.wait(timeout=30)


def main() -> None:
    """Reads what to end until the pipe closes, then ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: dict[int, int] = {}
    folders: list[str] = []
    for line in sys.stdin:
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "session":
            pid, _, started = rest.partition(" ")
            sessions[int(pid)] = int(started)
        elif kind == "released":
            sessions.pop(int(rest), None)
        elif kind == "folder":
            folders.append(rest)
    for leader, started in sessions.items():
        kill_session(leader, started)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
