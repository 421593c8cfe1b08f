"""Messages put on a server by hand, and how soon a consumer gets one."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
import uuid

from servers.process import ServerFailed, wait_until
from servers.redis import RedisServer
from servers.resp import RespError

from .fleet import Program


def envelope(number: str, exchange: str, queue: str, padding: int = 0) -> str:
    """A message as Kombu writes it, so many bytes longer than it has to be."""
    body = json.dumps({"id": number}).encode()
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"padding": "x" * padding},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": exchange, "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


class Sender:
    """Sends messages to one consumer, past whatever is between it and its server."""

    #: What `send` raises while the server is on its way up.
    down: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, consumer: Program) -> None:
        self.consumer = consumer
        self._numbers = itertools.count()

    def send(self, padding: int = 0) -> tuple[str, str]:
        """One message to its queue, with `padding`, and one to its fanout exchange; their ids."""
        number = next(self._numbers)
        direct, fanned = f"direct-{number}", f"fanned-{number}"
        (queue,) = self.consumer.spec["queues"]
        self.put(queue, self.consumer.spec["fanout"], direct, fanned, padding)
        return direct, fanned

    def put(self, queue: str, exchange: str, direct: str, fanned: str, padding: int) -> None:
        """Hand both to the server."""
        raise NotImplementedError

    def wait_received(self, timeout: float) -> dict[str, float]:
        """Send until the consumer gets messages both ways again: after how many seconds it did."""
        start = time.monotonic()
        sent: dict[str, set[str]] = {"direct": set(), "fanned": set()}
        got: dict[str, float] = {}
        last = 0.0

        def look() -> bool:
            nonlocal last
            if time.monotonic() - last >= 0.05:
                last = time.monotonic()
                with contextlib.suppress(*self.down):
                    for number in self.send():
                        sent[number.partition("-")[0]].add(number)
            for event in self.consumer.events("got"):
                way = event.number.partition("-")[0]
                if way not in got and event.number in sent.get(way, ()):
                    got[way] = event.at - start
            return len(got) == len(sent)

        with contextlib.suppress(ServerFailed):
            wait_until(look, timeout)
        return got


class Probe(Sender):
    """A sender on Redis."""

    down = (OSError, RespError)

    def __init__(self, server: RedisServer, consumer: Program) -> None:
        super().__init__(consumer)
        self.server = server

    def put(self, queue: str, exchange: str, direct: str, fanned: str, padding: int) -> None:
        with self.server.client() as client:
            client.command("LPUSH", queue, envelope(direct, "", queue, padding))
            client.command("PUBLISH", f"/0.{exchange}", envelope(fanned, exchange, ""))
