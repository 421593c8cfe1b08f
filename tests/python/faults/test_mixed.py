"""Stock Kombu and kombu-rs on the same queues, with kills on both sides."""

from __future__ import annotations

import random
import time

import pytest

from servers.redis import RedisServer

from .conftest import Report
from .fleet import LIBRARIES, Fleet, Keys, Program

#: Long enough for stock Kombu, which does not renew its claims, to finish what it has.
VISIBILITY = 5
QUEUES = ["mixed-a", "mixed-b"]
ROUNDS, LONG = 10, 100


class MixedFleet:
    """Two consumers and a publisher of each library."""

    def __init__(self, fleet: Fleet, dice: random.Random, url: str) -> None:
        self.fleet = fleet
        self.dice = dice
        self.url = url
        self.publishers = {library: self.publisher(library) for library in LIBRARIES}
        self.consumers = {
            library: [self.consumer(library) for _ in range(2)] for library in LIBRARIES
        }
        self.kills = dict.fromkeys(LIBRARIES, 0)

    def publisher(self, library: str) -> Program:
        number = len(self.fleet.programs)
        return self.fleet.start(
            "publish",
            library=library,
            url=self.url,
            queues=QUEUES,
            priorities=[0, 3, 9],
            name=f"{library}{number}",
            seed=number,
            pause=0.002,
        )

    def consumer(self, library: str) -> Program:
        dice = self.dice
        return self.fleet.start(
            "consume",
            library=library,
            url=self.url,
            queues=QUEUES,
            options={"visibility_timeout": VISIBILITY},
            prefetch=dice.choice([1, 5, 20]),
            work=0.002,
            ack=dice.choice(["late", "early"]),
            seed=dice.randrange(1000),
            # Where it has recorded what it holds: between pop and record it loses a message.
            die_at=dice.randrange(1, 100) if library == "kombu" else None,
        )

    def kill_one_of_ours(self) -> None:
        """At any moment."""
        victim = self.consumers["kombu_rs"].pop(0)
        victim.wait_for("got", 60)
        time.sleep(self.dice.uniform(0, 0.1))  # the moment of the kill
        victim.kill()
        self.kills["kombu_rs"] += 1
        self.consumers["kombu_rs"].append(self.consumer("kombu_rs"))

    def replace_dead_stock(self) -> None:
        """Those that have killed themselves."""
        for consumer in list(self.consumers["kombu"]):
            if not consumer.is_running():
                self.consumers["kombu"].remove(consumer)
                self.consumers["kombu"].append(self.consumer("kombu"))
                self.kills["kombu"] += 1

    def kill_a_publisher(self) -> None:
        """One of either library."""
        library = self.dice.choice(LIBRARIES)
        self.publishers[library].wait_for("ok", 60)
        self.publishers[library].kill()
        self.publishers[library] = self.publisher(library)


def test_a_mixed_fleet(
    redis_server: RedisServer,
    fleet: Fleet,
    library: str,
    soak: bool,
    dice: random.Random,
    report: Report,
) -> None:
    """Stock and ours on the same queues: nothing is lost, nothing is taken from who lives."""
    if library != "kombu_rs":
        pytest.skip("a mixed fleet has both libraries anyway")
    mixed = MixedFleet(fleet, dice, redis_server.url())
    for turn in range(LONG if soak else ROUNDS):
        mixed.kill_one_of_ours()
        mixed.replace_dead_stock()
        if turn % 5 == 4:
            mixed.kill_a_publisher()
    fleet.end("publish")
    for consumer in mixed.consumers["kombu"]:
        # They would die of what is left: ours finish it, with the claims of these.
        consumer.stop()
    keys = Keys(redis_server, QUEUES)
    try:
        keys.wait_empty(90)
    finally:
        fleet.end("consume")
        verdict = fleet.verdict(VISIBILITY)
        report(
            kills=mixed.kills,
            published=len(verdict.published),
            lost=len(verdict.unsettled - set(keys.numbers())),
            repeated=verdict.repeated,
            wrongly=len(verdict.wrong),
        )
    assert mixed.kills["kombu"], "no stock consumer has died"
    for name in LIBRARIES:
        workers = [consumer for consumer in fleet.of("consume") if consumer.library == name]
        assert any(worker.events("acked") for worker in workers)
    assert not verdict.failed
    assert not verdict.unsettled
    assert not verdict.wrong
