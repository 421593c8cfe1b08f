"""Scripts in processes of their own, and the transports that the tests of this folder run on."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from servers import reaper
from servers.process import ServerFailed, wait_until

#: What every script begins with: its first argument is the broker's URL.
PRELUDE = """
import os, signal, sys, threading, time
from kombu_rs import Connection, Consumer, Exchange, Producer, Queue

url = sys.argv[1]

def say(*words):
    print(*words, flush=True)
"""


def is_asleep(pid: int, thread: int) -> Callable[[], bool]:
    """A condition: the thread has slept in the kernel, and not run at all, for ten looks.

    A thread that waits for the interpreter's lock wakes every few milliseconds to ask for it.
    """
    seen: list[str] = []

    def look() -> bool:
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        switches = fields["voluntary_ctxt_switches"] + fields["nonvoluntary_ctxt_switches"]
        now = fields["State"].split()[0] + switches
        if not now.startswith("S") or (seen and seen[-1] != now):
            seen.clear()
        seen.append(now)
        return len(seen) > 10

    return look


class Script:
    """A running script. The lines that it prints are what it tells the test."""

    def __init__(self, folder: Path, source: str, *arguments: str, before: str = "") -> None:
        number = len(list(folder.glob("script-*.py")))
        path = folder / f"script-{number}.py"
        path.write_text(before + PRELUDE + source)
        self._errors = path.with_suffix(".err")
        with self._errors.open("wb") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-W", "ignore::DeprecationWarning", path, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        reaper.adopt_session(self.pid)
        self._started = reaper.start_time(self.pid) or 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line.decode().rstrip("\n"))
        self._lines.put(None)

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._errors.read_text(errors="replace")

    def expect(self, word: str, timeout: float = 30.0) -> str:
        """Wait for its next line, which must begin with `word`; return the rest of the line."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ServerFailed(
                f"no line {word!r} within {timeout:g} s; stderr:\n{self.errors()}"
            ) from None
        if line is None or line.split(" ")[0] != word:
            raise ServerFailed(f"{line!r} came instead of {word!r}; stderr:\n{self.errors()}")
        return line[len(word) + 1 :]

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait_asleep(self, timeout: float = 30.0) -> None:
        """Wait until its main thread sleeps in the kernel."""
        wait_until(is_asleep(self.pid, self.pid), timeout, "the script to fall asleep")

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end; return the exit code (negative: the signal)."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            text = f"still runs after {timeout:g} s; stderr:\n{self.errors()}"
            raise ServerFailed(text) from None

    def finish(self, timeout: float = 30.0) -> None:
        """Wait for its end, which must be a good one: exit code 0 and nothing on stderr."""
        code = self.wait(timeout)
        assert (code, self.errors()) == (0, "")

    def end(self) -> None:
        """Kill what is left of it."""
        reaper.kill_session(self.pid, self._started)
        self._popen.kill()
        self._popen.wait()
        reaper.release_session(self.pid)
        self._reader.join(10)
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()


StartScript = Callable[..., Script]


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[StartScript]:
    """Starts a script: ``start_script(source, url, *more_arguments, before=code)``."""
    with ExitStack() as stack:

        def start(source: str, *arguments: str, before: str = "") -> Script:
            script = Script(tmp_path, source, *arguments, before=before)
            stack.callback(script.end)
            return script

        yield start


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker, of each kind that there is."""
    if request.param == "memory":
        return "memory://"
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def shared_broker(request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker that processes share."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def ticking() -> Iterator[Callable[[], int]]:
    """Another Python thread counts; the value is a function that returns how far it got."""
    ticks = [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1
            if ticks[0] % 100 == 0:
                time.sleep(0)  # gives the interpreter's lock to whoever wants it

    thread = threading.Thread(target=count)
    thread.start()
    yield lambda: ticks[0]
    stop.set()
    thread.join()
