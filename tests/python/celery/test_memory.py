"""A worker in the same process on the memory transport, as test suites of applications run it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from celery.contrib.testing.worker import start_worker

from .conftest import NewStage


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """A worker in this process sets up the root logger as if the process were its own."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)


def test_a_worker_in_a_thread(new_stage: NewStage) -> None:
    stage = new_stage("memory://", result_backend="cache+memory://")
    with (
        logging_as_it_was(),
        warnings.catch_warnings(),
        start_worker(stage.app, pool="solo", perform_ping_check=False, shutdown_timeout=20),
    ):
        results = [stage.send("add", n, n) for n in range(50)]
        assert [r.get(timeout=20) for r in results] == [2 * n for n in range(50)]
        assert stage.send("flaky", 1).get(timeout=20) == 1
