"""A worker on a Redis server that refuses RESP3, tracking and scripts."""

from __future__ import annotations

import re

from servers.refusals import refusing

from .conftest import NewStage


def test_a_worker_does_without(new_stage: NewStage) -> None:
    with refusing("bare") as server:
        stage = new_stage(server.url())
        worker = stage.worker(pool="prefork", arguments=["-O", "fair"])
        results = [stage.send("add", n, n) for n in range(50)]
        assert [result.get(timeout=60) for result in results] == [2 * n for n in range(50)]
        assert stage.send("flaky", 1).get(timeout=30) == 1
        answers = stage.app.control.inspect(timeout=5, limit=1).ping()
        assert answers == {"worker@test": {"ok": "pong"}}
        worker.stop()
        assert server.command("HLEN", "unacked") == 0
        # Once in each process, however many connections it has.
        said = re.findall(r"WARNING/([\w-]+)\] Redis at \S+ refuses RESP3", worker.log_text())
        assert "MainProcess" in said
        assert len(said) == len(set(said))
