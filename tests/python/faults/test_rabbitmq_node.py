"""A node of RabbitMQ that refuses, and programs that keep it waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from servers.process import ServerFailed, wait_until
from servers.rabbitmq import RabbitMQServer

from .conftest import Report
from .fleet import Fleet
from .rabbit import CONFIRMED, Vhost

#: Seconds that a publish may take, and how late it may fail on a busy machine.
LIMIT, SLACK = 1.0, 2.0


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """A node that the tests of this module may disturb."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture
def vhost(node: RabbitMQServer) -> Iterator[Vhost]:
    """An empty one of it."""
    made = Vhost(node)
    made.declare("work")
    yield made
    node.delete_vhost(made.name)


def test_a_node_without_memory(vhost: Vhost, fleet: Fleet, report: Report) -> None:
    """The memory alarm: a publish fails in time, consuming goes on, and all heals."""
    common = {"url": vhost.url(), "queues": ["work"]}
    publisher = fleet.start(
        "publish", **common, options=CONFIRMED, timeout=LIMIT, pause=0.02, high_water=0
    )
    publisher.wait_for("ok")
    consumer = fleet.start("consume", **common, work=0.2, prefetch=1)
    # More than are consumed before the alarm ends.
    wait_until(lambda: len(publisher.events("ok")) > 150, 30, "messages")
    consumer.wait_for("acked")
    vhost.server.ctl("set_vm_memory_high_watermark", "0.00001")
    begin = time.monotonic()
    try:
        with contextlib.suppress(ServerFailed):
            publisher.wait_for("failed", 20, since=begin)
        time.sleep(5)  # the alarm lasts
        failed = publisher.events("failed")
        # Those that came in the last seconds of the alarm: nobody was left behind by its beginning.
        acked = [e for e in consumer.events("acked") if e.at > begin + 2]
    finally:
        vhost.server.ctl("set_vm_memory_high_watermark", "0.4")
    healed = time.monotonic()
    report(failed=len(failed), consumed_in_need=len(acked))
    try:
        again = publisher.wait_for("ok", 60, since=healed)
    except ServerFailed:
        report(longest_publish=f"more than {time.monotonic() - begin:.0f}")
        raise
    longest = max(float(e.words[1]) for e in publisher.events("ok", "failed") if e.at >= begin)
    report(longest_publish=longest, published_again=again.at - healed)
    vhost.settle(fleet, report, "work")
    assert failed
    assert acked
    assert longest <= LIMIT + SLACK


@pytest.fixture
def impatient(node: RabbitMQServer) -> Iterator[None]:
    """Has the node give consumers a second for each message, and look every 200 ms."""
    node.set_internal(channel_tick_interval=200, consumer_timeout=1000)
    yield
    node.set_internal(channel_tick_interval=60_000, consumer_timeout=1_800_000)


@pytest.mark.usefixtures("impatient")
def test_a_consumer_that_takes_too_long(vhost: Vhost, fleet: Fleet, report: Report) -> None:
    """`consumer_timeout`: it is told why its channel was closed, and the message comes again."""
    common = {"url": vhost.url(), "queues": ["work"]}
    consumer = fleet.start("consume", **common, ack="never", prefetch=1)
    consumer.wait_for("ready")
    fleet.start("publish", **common, count=1, high_water=0)
    got = consumer.wait_for("got")
    with contextlib.suppress(ServerFailed):
        consumer.wait_for("closed", 30)
        wait_until(lambda: len(consumer.events("got")) > 1, 30)
    told = consumer.events("closed", "lost")
    again = consumer.events("got")[1:]
    report(
        told=told[0].words[0] if told else "nothing",
        told_after=told[0].at - got.at if told else "more than 30",
        came_again=bool(again),
        link="lost" if consumer.events("lost") else "kept",
    )
    assert told
    assert "delivery acknowledgement" in " ".join(told[0].words)
    assert again
    assert not consumer.events("lost")


def test_a_callback_that_keeps_the_interpreter(vhost: Vhost, fleet: Fleet, report: Report) -> None:
    """A callback keeps the GIL for ten heartbeats: the link lives, its message comes once."""
    heartbeat, count = 1, 5
    common = {"url": vhost.url(), "queues": ["work"], "connection": {"heartbeat": heartbeat}}
    busy = fleet.start("consume", **common, prefetch=2, hold_gil=10.0 * heartbeat)
    busy.wait_for("ready")
    fleet.start("publish", **common, count=count, high_water=0)
    busy.wait_for("woke", 40)
    with contextlib.suppress(ServerFailed):
        wait_until(lambda: len({e.number for e in busy.events("acked")}) == count, 30)
        wait_until(vhost.is_empty, 30)
    fleet.end("consume")
    got = [event.number for event in busy.events("got")]
    report(messages=count, deliveries=len(got), links_lost=len(busy.events("lost", "closed")))
    assert sorted(got) == sorted(set(got))
    assert len(got) == count
    assert not busy.events("lost", "closed")
