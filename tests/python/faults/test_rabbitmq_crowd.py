"""Threads that share a connection to RabbitMQ, and programs that open and close all day."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from servers.process import ServerFailed
from servers.rabbitmq import RabbitMQServer

from .conftest import Report
from .fleet import Fleet, Program
from .rabbit import CONFIRMED, Vhost

THREADS = 8
#: Bytes by which a program may grow from the first tenth of its work to the last.
GROWTH = 4 << 20


@pytest.fixture
def vhost(rabbitmq_server: RabbitMQServer) -> Iterator[Vhost]:
    """An empty one of the shared node."""
    made = Vhost(rabbitmq_server)
    made.declare("crowd")
    yield made
    rabbitmq_server.delete_vhost(made.name)


@pytest.mark.parametrize("one_channel", [False, True], ids=["own_channels", "one_channel"])
def test_threads(
    vhost: Vhost, fleet: Fleet, under_load: bool, soak: bool, report: Report, one_channel: bool
) -> None:
    """Eight threads share a connection: each gets its own messages back, whole and once."""
    count = 10_000 if soak else 500 if under_load else 100
    program = fleet.start(
        "threads",
        url=vhost.url(),
        queues=["crowd"],
        options=CONFIRMED,
        threads=THREADS,
        count=count,
        one_channel=one_channel,
    )
    ended = False
    with contextlib.suppress(ServerFailed):
        program.wait_for("end", 3000 if soak else 60)
        ended = True
    got = [event.number for event in program.events("right")]
    report(
        ended=ended,
        messages=THREADS * count,
        right=len(got),
        wrong=len(program.events("wrong")),
        failed_threads=len(program.events("failed")),
    )
    assert ended
    assert not program.events("failed", "wrong")
    assert len(set(got)) == len(got) == THREADS * count


def growth(program: Program, kind: str) -> tuple[int, int]:
    """By how many bytes and descriptors it has grown after the first tenth."""
    sizes = [tuple(map(int, event.words)) for event in program.events(kind)]
    (memory, files), (last_memory, last_files) = sizes[0], sizes[-1]
    return last_memory - memory, last_files - files


@pytest.mark.parametrize("kind", ["channels", "connections"])
def test_open_and_close(
    vhost: Vhost, fleet: Fleet, under_load: bool, report: Report, kind: str
) -> None:
    """Channels and connections are opened and closed: memory and descriptors stay what they are."""
    full = {"channels": 10_000, "connections": 1000}[kind]
    count = full if under_load else full // 10
    spec = {"url": vhost.url(), "queues": ["crowd"], kind: count}
    program = fleet.start("churn", **spec)
    program.wait_for("end", 300)
    memory, files = growth(program, kind)
    report(count=count, memory_kib=memory // 1024, descriptors=files)
    assert files <= 0
    assert memory < GROWTH
    # The node has given them up, too.
    assert not vhost.server.ctl("list_connections", "--no-table-headers", "pid", "vhost").count(
        vhost.name
    )
