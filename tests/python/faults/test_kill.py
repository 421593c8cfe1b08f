"""kill -9 of consumers at random moments under load: nothing is lost."""

from __future__ import annotations

import random
import time

from servers.redis import RedisServer

from .conftest import Report
from .fleet import Fleet, Keys, Program

#: Seconds after which a claim of a dead consumer is given to another.
VISIBILITY = 3
QUEUES = ["kill-a", "kill-b"]
KILLS, LONG = 100, 1000


def start_consumer(fleet: Fleet, dice: random.Random, url: str) -> Program:
    """A consumer of one kind or another."""
    return fleet.start(
        "consume",
        url=url,
        queues=QUEUES,
        options={"visibility_timeout": VISIBILITY},
        prefetch=dice.choice([1, 2, 10, 50, 200]),
        work=dice.choice([0, 0, 0.001, 0.01]),
        ack=dice.choice(["late", "late", "early", "batch"]),
        seed=dice.randrange(1000),
    )


def test_kills_of_consumers(
    redis_server: RedisServer, fleet: Fleet, soak: bool, dice: random.Random, report: Report
) -> None:
    """Consumers are killed under load: nothing is lost, and twice comes only what was claimed."""
    kills, url = LONG if soak else KILLS, redis_server.url()
    for number in range(2):
        fleet.start(
            "publish",
            url=url,
            queues=QUEUES,
            name=f"p{number}",
            seed=number,
            priorities=[0, 3, 9],
            pause=0.002,
        )
    consumers = [start_consumer(fleet, dice, url) for _ in range(5)]
    for _ in range(kills):
        victim = consumers.pop(dice.randrange(len(consumers)))
        if dice.random() < 0.8:
            victim.wait_for("got", 60)  # the others die while they start
        time.sleep(dice.uniform(0, 0.1))  # the moment of the kill
        victim.kill()
        consumers.append(start_consumer(fleet, dice, url))
    fleet.end("publish")
    keys = Keys(redis_server, QUEUES)
    try:
        keys.wait_empty(60)
    finally:
        fleet.end("consume")
        verdict = fleet.verdict(VISIBILITY)
        left = verdict.unsettled & set(keys.numbers())
        report(
            kills=kills,
            published=len(verdict.published),
            lost=len(verdict.unsettled - left),
            left_in_claims=len(left),
            repeated=verdict.repeated,
            wrongly=len(verdict.wrong),
        )
    assert not verdict.failed
    assert not verdict.unsettled
    assert not verdict.wrong
    assert len(verdict.published) > 10 * kills, "there was no load"
    assert verdict.repeated, "no kill has met an open claim"
