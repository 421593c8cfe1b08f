"""kill -9 of consumers and publishers on RabbitMQ: what was confirmed is delivered."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from servers.rabbitmq import RabbitMQServer

from .conftest import Report
from .fleet import Fleet, Program
from .rabbit import CONFIRMED, Vhost

QUEUES = ["kill-a", "kill-b"]
KILLS, LONG = 60, 1000


@pytest.fixture(params=["classic", "quorum"])
def vhost(rabbitmq_server: RabbitMQServer, request: pytest.FixtureRequest) -> Iterator[Vhost]:
    """With queues of each kind."""
    # So often quorum queues tell how many messages they have.
    rabbitmq_server.set_internal(quorum_tick_interval=200)
    made = Vhost(rabbitmq_server, {"x-queue-type": request.param})
    made.declare(*QUEUES)
    yield made
    rabbitmq_server.delete_vhost(made.name)


def publisher(fleet: Fleet, vhost: Vhost, name: str, **spec: Any) -> Program:
    """One that is told what the broker has."""
    common = {"url": vhost.url(), "queues": QUEUES, "options": CONFIRMED, "pause": 0.002}
    return fleet.start("publish", **common, name=name, **spec)


def consumer(fleet: Fleet, vhost: Vhost, dice: random.Random) -> Program:
    """One of one kind or another."""
    return fleet.start(
        "consume",
        url=vhost.url(),
        queues=QUEUES,
        queue_arguments=vhost.arguments,
        prefetch=dice.choice([1, 2, 10, 50, 200]),
        work=dice.choice([0, 0, 0.001, 0.01]),
        ack=dice.choice(["late", "late", "early", "batch"]),
        seed=dice.randrange(1000),
    )


def test_kills_of_consumers(
    vhost: Vhost, fleet: Fleet, soak: bool, dice: random.Random, report: Report
) -> None:
    """Consumers are killed under load: nothing is lost, nothing is taken from who lives."""
    kills = LONG if soak else KILLS
    for number in range(2):
        publisher(fleet, vhost, f"p{number}", seed=number)
    consumers = [consumer(fleet, vhost, dice) for _ in range(4)]
    for _ in range(kills):
        victim = consumers.pop(dice.randrange(len(consumers)))
        if dice.random() < 0.8:
            victim.wait_for("got", 60)  # the others die while they start
        time.sleep(dice.uniform(0, 0.1))  # the moment of the kill
        victim.kill()
        consumers.append(consumer(fleet, vhost, dice))
    verdict = vhost.settle(fleet, report, *QUEUES)
    report(kills=kills, wrongly=len(verdict.wrong))
    assert not verdict.failed
    assert not verdict.wrong
    assert verdict.repeated, "no kill has met a message that was not acknowledged"


def test_kills_of_publishers(
    vhost: Vhost, fleet: Fleet, soak: bool, dice: random.Random, report: Report
) -> None:
    """Publishers are killed under load: what was confirmed to them is delivered, once."""
    kills = LONG if soak else KILLS
    consumers = [consumer(fleet, vhost, dice) for _ in range(2)]
    for one in consumers:
        one.wait_for("ready", 60)
    for number in range(kills):
        victim = publisher(fleet, vhost, f"p{number}", seed=number, size=dice.choice([10, 50_000]))
        victim.wait_for("ok", 60)
        time.sleep(dice.uniform(0, 0.1))  # the moment of the kill
        victim.kill()
    verdict = vhost.settle(fleet, report, *QUEUES)
    report(kills=kills, wrongly=len(verdict.wrong))
    assert not verdict.wrong
    assert not verdict.repeated
