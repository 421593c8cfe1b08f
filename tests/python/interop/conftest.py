"""Two processes that exchange messages: one on stock Kombu, one on kombu-rs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from servers import reaper
from servers.worker import stock_python


class PeerFailed(AssertionError):
    """A side answered with an error."""


class Peer:
    """The handle of one side: method calls go to `peer.py` in its process."""

    def __init__(self, implementation: str) -> None:
        python = stock_python() if implementation == "kombu" else Path(sys.executable)
        self.implementation = implementation
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("peer.py"), implementation],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        reaper.adopt_session(self._process.pid)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"do": name, "with": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise PeerFailed(f"{self.implementation} ended with {self._process.wait(5)}")
            answer = json.loads(line)
            if "error" in answer:
                raise PeerFailed(f"{self.implementation}: {answer['error']}\n{answer['trace']}")
            return answer.get("value")

        return call

    def kill(self) -> None:
        """SIGKILL, as when the machine dies."""
        self._process.kill()
        self._process.wait(10)

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        reaper.release_session(self._process.pid)


NewPeer = Callable[..., Peer]


@pytest.fixture
def new_peer() -> Iterator[NewPeer]:
    """Starts one side and connects it: ``new_peer("kombu", url, option=value)``."""
    with ExitStack() as stack:

        def make(implementation: str, url: str, **options: Any) -> Peer:
            peer = Peer(implementation)
            stack.callback(peer.end)
            file = Path(peer.connect(url, options))
            assert file.parent.name == implementation
            return peer

        yield make
