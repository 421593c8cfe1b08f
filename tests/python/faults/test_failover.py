"""Sentinels make another server the master under load: consuming goes on there, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from servers.process import wait_until
from servers.redis import RedisServer, Sentinel

from .conftest import Report
from .fleet import Fleet, Keys
from .probe import Probe

#: How soon a consumer must have messages again when the sentinels have chosen a master.
PROMISE = 5.0
QUEUE = "failover"
VISIBILITY = 3


@dataclass
class Trio:
    """A master with two replicas, and the sentinels that watch them."""

    master: RedisServer
    replicas: list[RedisServer]
    sentinels: list[Sentinel]

    def url(self) -> str:
        """All sentinels."""
        return ";".join(sentinel.url() for sentinel in self.sentinels)

    def replicate(self) -> float:
        """Wait until both replicas have what was confirmed before the moment returned."""
        moment = time.monotonic()
        with self.master.client() as client:
            client.command("INCR", "barrier")
            assert client.command("WAIT", 2, 10_000) == 2
        return moment

    def wait_elected(self) -> RedisServer:
        """Wait until a sentinel names another master."""
        servers = {server.port: server for server in self.replicas}

        def elected() -> RedisServer | None:
            return servers.get(self.sentinels[0].master_port())

        found = wait_until(elected, 30.0, "another master", 0.02)
        assert isinstance(found, RedisServer)
        return found


@pytest.fixture
def trio(new_redis: Callable[..., RedisServer]) -> Iterator[Trio]:
    """Writes need a replica that listens, so that a master that is cut off takes none for long."""
    common = {
        "repl-diskless-sync-delay": "0",
        "min-replicas-to-write": "1",
        "min-replicas-max-lag": "2",
    }
    master = new_redis(config=common)
    follow = {"replicaof": f"127.0.0.1 {master.port}"}
    replicas = [new_redis(config=common | follow) for _ in range(2)]
    with ExitStack() as stack:
        sentinels = [stack.enter_context(Sentinel(master)) for _ in range(2)]
        for sentinel in sentinels:
            ready = lambda sentinel=sentinel: sentinel.replicas() == 2  # noqa: E731
            wait_until(ready, 30.0, "the sentinels' knowledge of the replicas")
        yield Trio(master, replicas, sentinels)


def kill(trio: Trio) -> None:
    trio.master.kill()


def stop(trio: Trio) -> None:
    trio.master.pause()


def demote(trio: Trio) -> None:
    trio.sentinels[0].command("SENTINEL", "FAILOVER", trio.sentinels[0].name)


@pytest.mark.parametrize("fault", [kill, stop, demote], ids=lambda fault: fault.__name__)
def test_a_failover(
    fault: Callable[[Trio], None], trio: Trio, fleet: Fleet, report: Report
) -> None:
    """Messages come within five seconds of the election, and none that was replicated is lost."""
    options = {"master_name": "mymaster", "visibility_timeout": VISIBILITY}
    common = {"url": trio.url(), "queues": [QUEUE], "options": options}
    consumer = fleet.start("consume", fanout="failover.fanout", **common)
    publisher = fleet.start("publish", timeout=1.0, pause=0.002, **common)
    consumer.wait_for("ready")
    publisher.wait_for("ok")
    probe = Probe(trio.master, consumer)
    assert len(probe.wait_received(30)) == 2
    replicated = trio.replicate()
    fault(trio)
    begin = time.monotonic()
    master = trio.wait_elected()
    elected = time.monotonic()
    probe.server = master
    again = probe.wait_received(60)
    published = publisher.wait_for("ok", 60, since=elected)
    if fault is stop:
        trio.master.resume()
    fleet.end("publish")
    Keys(master, [QUEUE]).wait_empty(60)
    fleet.end("consume")
    settled = fleet.verdict(VISIBILITY).settled
    safe = {event.number for event in publisher.events("ok") if event.at <= replicated}
    after = {event.number for event in publisher.events("ok") if event.at >= published.at}
    report(
        election=elected - begin,
        consumed_again=again,
        published_again=published.at - elected,
        safe=len(safe),
        lost=len(safe - settled),
        published_afterwards=len(after),
        lost_afterwards=len(after - settled),
    )
    assert safe
    assert after
    assert safe <= settled
    assert after <= settled
    assert set(again) == {"direct", "fanned"}
    assert max(again.values()) < PROMISE
