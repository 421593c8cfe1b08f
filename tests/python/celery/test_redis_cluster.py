"""Celery on ``rediscluster://``: through `kombu-rs run`, and on stock Kombu with our transport."""

from __future__ import annotations

import pytest

from kombu_rs.utils.uuid import uuid
from servers.redis_cluster import RedisCluster

from .conftest import NewStage


@pytest.mark.parametrize("as_transport", [False, True], ids=["whole", "transport"])
def test_tasks_and_remote_control_while_the_slot_moves(
    redis_cluster: RedisCluster, new_stage: NewStage, as_transport: bool
) -> None:
    tag = uuid()
    key = f"{{{tag}}}"
    stage = new_stage(redis_cluster.url(), broker_transport_options={"hash_tag": tag})
    prefix = "kombu-rs+" if as_transport else ""
    named = stage.settings | {"broker_url": prefix + redis_cluster.url()}
    stage.worker(pool="prefork", settings=named, as_transport=as_transport)
    facts = stage.send("whoami").get(timeout=30)
    assert facts["name"] == ("kombu" if as_transport else "kombu_rs")
    assert stage.app.control.inspect(timeout=10, limit=1).ping() == {"worker@test": {"ok": "pong"}}
    results = []
    for number in range(3):
        results += [stage.send("add", n, number) for n in range(30)]
        master = redis_cluster.master_of(key)
        redis_cluster.move(key, next(node for node in redis_cluster.nodes if node is not master))
    sums = [result.get(timeout=30) for result in results]
    assert sums == [n + number for number in range(3) for n in range(30)]
    assert stage.send("flaky", 2).get(timeout=30) == 2
