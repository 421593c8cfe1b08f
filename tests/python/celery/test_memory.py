"""A worker in the same process on the memory transport, as test suites of applications run it."""

from __future__ import annotations

import warnings

from celery.contrib.testing.worker import start_worker

from .conftest import NewStage


def test_a_worker_in_a_thread(new_stage: NewStage) -> None:
    stage = new_stage("memory://", result_backend="cache+memory://")
    with (
        warnings.catch_warnings(),
        start_worker(stage.app, pool="solo", perform_ping_check=False, shutdown_timeout=20),
    ):
        results = [stage.send("add", n, n) for n in range(50)]
        assert [r.get(timeout=20) for r in results] == [2 * n for n in range(50)]
        assert stage.send("flaky", 1).get(timeout=20) == 1
