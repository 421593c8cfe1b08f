"""Consumers and publishers as processes, and what their journals say together."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.process import Process, wait_until
from servers.redis import RedisServer
from servers.worker import stock_python

PROGRAM = Path(__file__).with_name("program.py")
#: The two libraries that every program of this folder runs on.
LIBRARIES = ("kombu_rs", "kombu")


@dataclass(frozen=True)
class Event:
    """One line of a journal. `at` is in seconds of the machine's monotonic clock."""

    at: float
    kind: str
    words: tuple[str, ...]

    @property
    def number(self) -> str:
        """The id of the message that it is about."""
        return self.words[0]


class Program(Process):
    """A process of `program.py`. `killed` is when SIGKILL was sent to it."""

    def __init__(
        self, folder: Path, name: str, library: str, role: str, spec: dict[str, Any]
    ) -> None:
        self.name = name
        self.library = library
        self.role = role
        self.spec = spec
        self.killed: float | None = None
        self._journal = folder / f"{name}.journal"
        self._events: list[Event] = []
        self._read = 0
        stock = library == "kombu"
        left_out = {"PYTHONPATH"} if stock else set()
        super().__init__(
            [
                stock_python() if stock else sys.executable,
                *("-W", "ignore::DeprecationWarning", PROGRAM, library, role),
                json.dumps(spec | {"journal": str(self._journal)}),
            ],
            log=folder / f"{name}.log",
            env={key: value for key, value in os.environ.items() if key not in left_out},
        )

    def events(self, *kinds: str) -> list[Event]:
        """What it has written so far, of these kinds if there are any."""
        self._read_on()
        return [event for event in self._events if not kinds or event.kind in kinds]

    def _read_on(self) -> None:
        try:
            with self._journal.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            at, kind, *words = line.split(" ")
            self._events.append(Event(int(at) / 1e9, kind, tuple(words)))

    def wait_for(self, kind: str, timeout: float = 30.0, since: float = 0.0) -> Event:
        """Its first event of a kind, not older than `since`."""

        def look() -> Event | None:
            return next((e for e in self.events(kind) if e.at >= since), None)

        found = self.wait_until(look, timeout, f"{kind!r} of {self.name}")
        assert isinstance(found, Event)
        return found

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = time.monotonic()
        super().kill()
        self.stop()

    def end(self, timeout: float = 30.0) -> None:
        """Wait for its orderly end after SIGTERM."""
        code = self.wait(timeout)
        self.stop()
        if code:
            raise AssertionError(f"{self.name} ended with {code}:\n{self.log_text()[-3000:]}")


class Fleet:
    """Starts programs and remembers them all."""

    def __init__(self, folder: Path, library: str, stack: ExitStack) -> None:
        self.folder = folder
        self.library = library
        self.programs: list[Program] = []
        self._stack = stack

    def start(self, role: str, *, library: str | None = None, **spec: Any) -> Program:
        """Start a program of a role; `spec` is as in DEFAULTS of `program.py`."""
        number = len(self.programs)
        program = Program(self.folder, f"{role}-{number}", library or self.library, role, spec)
        program.start()
        self._stack.callback(program.stop)
        self.programs.append(program)
        return program

    def of(self, role: str) -> list[Program]:
        """All programs of a role, also those that have ended."""
        return [program for program in self.programs if program.role == role]

    def running(self, role: str) -> list[Program]:
        """The programs of a role that run."""
        return [program for program in self.of(role) if program.is_running()]

    def end(self, role: str) -> None:
        """End the programs of a role in order."""
        running = self.running(role)
        for program in running:
            program.wait_for("ready", 60)  # before, nobody would catch the signal
            program.send(signal.SIGTERM)
        for program in running:
            program.end()

    def verdict(self, visibility: float | None) -> Verdict:
        """What the journals say; `visibility` is the visibility timeout of the consumers. None: the
        broker has none, and does not answer acknowledgements."""
        return Verdict.of(self.of("publish"), self.of("consume"), visibility)


@dataclass
class Delivery:
    """One delivery of a message."""

    at: float
    to: Program
    redelivered: bool
    #: When the work was finished, and when its acknowledgement was.
    done: float | None = None
    acked: float | None = None
    #: An acknowledgement was begun: if the program died in it, nobody knows.
    ack_begun: bool = False
    #: An acknowledgement has raised an error.
    ack_failed: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it need not be delivered again: who acknowledges before it works may die."""
        return self.done is not None or (self.ack_begun and self.to.killed is not None)


@dataclass
class Verdict:
    """The outcome of a run."""

    #: Publishes that succeeded, and that did not.
    published: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    #: Messages whose work was done.
    settled: set[str] = field(default_factory=set)
    #: Deliveries beyond the first, and those of them without a right to be.
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)
    #: Messages that nobody got before a visibility timeout had passed.
    late: set[str] = field(default_factory=set)

    @property
    def unsettled(self) -> set[str]:
        """Messages whose publisher was told that all is well, and that nobody has finished."""
        return self.published - self.settled

    @classmethod
    def of(
        cls, publishers: Iterable[Program], consumers: Iterable[Program], visibility: float | None
    ) -> Verdict:
        """Judge the journals of all programs of a run."""
        self = cls()
        published: dict[str, float] = {}
        for publisher in publishers:
            for event in publisher.events("ok", "failed"):
                if event.kind == "ok":
                    published[event.number] = event.at
                else:
                    self.failed.add(event.number)
        self.published = set(published)
        deliveries: dict[str, list[Delivery]] = {}
        breaks: dict[str, list[float]] = {}
        for consumer in consumers:
            breaks[consumer.name] = []
            latest: dict[str, Delivery] = {}
            for event in consumer.events("got", "done", "ack", "acked", "unacked", "lost"):
                if event.kind == "lost":
                    # Who makes a new connection gives up what came over the old one.
                    if consumer.spec.get("reconnect") != "plain":
                        breaks[consumer.name].append(event.at)
                    continue
                for number in event.number.split(","):
                    if event.kind == "got":
                        latest[number] = Delivery(event.at, consumer, event.words[1] == "1")
                        deliveries.setdefault(number, []).append(latest[number])
                    elif event.kind == "done":
                        latest[number].done = event.at
                    elif event.kind == "ack":
                        latest[number].ack_begun = True
                    elif event.kind == "unacked":
                        latest[number].ack_failed = True
                    else:
                        latest[number].acked = event.at
        for number, all_of_it in deliveries.items():
            all_of_it.sort(key=lambda delivery: delivery.at)
            if any(delivery.is_final for delivery in all_of_it):
                self.settled.add(number)
            waited = all_of_it[0].at - published.get(number, all_of_it[0].at)
            if visibility is not None and waited > visibility * 0.9:
                self.late.add(number)
            for first, then in itertools.pairwise(all_of_it):
                self.repeated += 1
                why = objection(first, then, breaks[first.to.name], visibility)
                if why:
                    self.wrong.append(f"{number}: {why}")
        return self


def objection(
    first: Delivery, then: Delivery, breaks: list[float], visibility: float | None
) -> str | None:
    """Why a message may not be delivered again; None: the claim was still open and had no owner."""
    holder, gap = first.to, then.at - first.at
    where = f"{holder.name} ({holder.library}) to {then.to.name} after {gap:.3f} s"
    killed = holder.killed is not None and holder.killed < then.at
    # What was on its way when a link ended may not have come to its end.
    sure = visibility is not None or not killed
    if sure and first.acked is not None and first.acked < then.at:
        return f"acknowledged {then.at - first.acked:.3f} s before, {where}"
    if not then.redelivered:
        return f"not marked as redelivered, {where}"
    if killed:
        return None
    if first.ack_failed or any(first.at < at < then.at for at in breaks):
        return None
    if holder.library == "kombu" and visibility is not None and gap >= visibility:
        return None  # stock Kombu does not renew its claims
    return f"its owner lives, {where}"


class Keys:
    """What a Redis server holds of some queues. Looks without a client library."""

    def __init__(self, server: RedisServer, queues: Iterable[str]) -> None:
        self.server = server
        self.lists = [f"{queue}{step}" for queue in queues for step in ("", *STEPS)]

    def waiting(self) -> int:
        """How many messages are in the lists."""
        with self.server.client() as client:
            return sum(client.command("LLEN", name) for name in self.lists)

    def claims(self) -> tuple[int, int]:
        """How many claims are open: records, and those of them that can expire."""
        with self.server.client() as client:
            return client.command("HLEN", "unacked"), client.command("ZCARD", "unacked_index")

    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is claimed."""
        return self.waiting() == 0 and self.claims() == (0, 0)

    def wait_empty(self, timeout: float) -> None:
        """Wait until everything is done."""
        wait_until(
            self.is_empty,
            timeout,
            lambda: f"the last message ({self.waiting()} wait, {self.claims()} are claimed)",
            0.05,
        )

    def numbers(self) -> Counter[str]:
        """The ids of all messages that the server holds, in lists or claims."""
        with self.server.client() as client:
            raw = [m for name in self.lists for m in client.command("LRANGE", name, 0, -1)]
            records = client.command("HVALS", "unacked")
        return Counter(list(_numbers(raw)) + list(_numbers(json.loads(r)[0] for r in records)))


STEPS = tuple(f"\x06\x16{step}" for step in (3, 6, 9))


def _numbers(messages: Iterable[bytes | dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        envelope = json.loads(message) if isinstance(message, bytes) else message
        yield json.loads(base64.b64decode(envelope["body"]))["id"]
