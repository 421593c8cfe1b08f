"""One child process of a test: in its own session, with a log, ended by its own id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import reaper


class ServerFailed(RuntimeError):
    """A server did not start, ended early, or did not reach a state in time."""


def wait_until(
    condition: Callable[[], object],
    timeout: float = 10.0,
    what: str | Callable[[], str] = "the condition",
    interval: float = 0.01,
) -> object:
    """Calls `condition` until it is true and returns its value; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            text = what() if callable(what) else what
            raise ServerFailed(f"after {timeout:g} s still waiting for {text}")
        time.sleep(interval)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def temporary_folder(prefix: str) -> Path:
    """A new folder that is removed when this process ends, in whatever way."""
    path = Path(tempfile.mkdtemp(prefix=f"kombu-rs-{prefix}-"))
    reaper.adopt_folder(path)
    return path


class Process:
    """A child process with its log. Use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = [os.fspath(a) for a in argv]
        self.log = log
        self.env = env
        self.cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = 0

    @property
    def pid(self) -> int:
        """The process id; an error when it was not started."""
        if self._popen is None:
            raise ServerFailed(f"{self.argv[0]} is not running")
        return self._popen.pid

    def start(self) -> None:
        """Starts the process in a session of its own: Ctrl-C in the terminal does not reach it."""
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )
        reaper.adopt_session(self._popen.pid)
        self._started = reaper.start_time(self._popen.pid) or 0

    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def log_text(self) -> str:
        """What it has written so far."""
        try:
            return self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def check(self) -> None:
        """Raises ServerFailed with the end of the log when the process has ended."""
        if not self.is_running():
            code = self._popen.poll() if self._popen else None
            raise ServerFailed(
                f"{self.argv[0]} ended with code {code}; its log ends with:\n"
                f"{self.log_text()[-3000:]}"
            )

    def wait_until(self, condition: Callable[[], object], timeout: float, what: str) -> object:
        """Like the function of that name; fails at once, with the log, when the process ends."""

        def checked() -> object:
            value = condition()
            if not value:
                self.check()
            return value

        return wait_until(
            checked, timeout, lambda: f"{what}; the log ends with:\n{self.log_text()[-3000:]}"
        )

    def wait(self, timeout: float = 10.0) -> int:
        """Waits for the end; returns the exit code (negative: the signal)."""
        assert self._popen is not None
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerFailed(
                f"{self.argv[0]} still runs after {timeout:g} s; its log ends with:\n"
                f"{self.log_text()[-3000:]}"
            ) from None
        return code

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process itself, not to its children."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to this process alone, as the kernel's out-of-memory killer does."""
        self.send(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """SIGSTOP: the process stays, its sockets stay open, nothing moves."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, after `timeout` seconds SIGKILL; what is left of its session is killed."""
        popen = self._popen
        if popen is None:
            return
        if popen.poll() is None:
            popen.send_signal(signal.SIGCONT)
            popen.terminate()
            try:
                popen.wait(timeout)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        reaper.kill_session(popen.pid, self._started)
        reaper.release_session(popen.pid)
        self._popen = None

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
