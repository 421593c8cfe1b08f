"""Celery as it is installed, on our `kombu`: in the test process and in its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import kombu_rs

kombu_rs.install_as_kombu()

from celery import Celery  # noqa: E402  (Celery imports kombu)

from servers.celery_app import make_app  # noqa: E402
from servers.redis import RedisServer  # noqa: E402
from servers.worker import CeleryWorker  # noqa: E402

#: Settings for RabbitMQ's quorum queues.
QUORUM = {"task_default_queue_type": "quorum"}


def settings_for(broker: str, folder: Path) -> dict[str, Any]:
    """Celery settings for a broker URL, results in files so that no second server is involved."""
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    return {
        "broker_url": broker,
        "result_backend": f"file://{results}",
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 4,
        "broker_connection_timeout": 4,
        "accept_content": ["json", "yaml", "msgpack", "pickle"],
    }


class Stage:
    """A broker, an application in this process and workers in others."""

    def __init__(self, settings: dict[str, Any], folder: Path, stack: ExitStack) -> None:
        self.settings = settings
        self.folder = folder
        self._stack = stack
        self.app: Celery = make_app(settings)
        stack.callback(self.app.close)

    def worker(self, **options: Any) -> CeleryWorker:
        """Starts a worker; it is stopped after the test."""
        options.setdefault("settings", self.settings)
        return self._stack.enter_context(CeleryWorker(self.folder, **options))

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Sends a task of `servers.celery_app`; returns its AsyncResult."""
        return self.app.tasks[f"servers.celery_app.{task}"].apply_async(args, **options)

    def signature(self, task: str, *args: Any, **options: Any) -> Any:
        """A signature of a task of `servers.celery_app`."""
        return self.app.tasks[f"servers.celery_app.{task}"].s(*args, **options)


NewStage = Callable[..., Stage]


@pytest.fixture
def new_stage(tmp_path: Path) -> Iterator[NewStage]:
    """Makes a Stage: ``new_stage(broker_url, setting=value, ...)``."""
    with ExitStack() as stack:

        def make(broker: str, **settings: Any) -> Stage:
            return Stage(settings_for(broker, tmp_path) | settings, tmp_path, stack)

        yield make


@pytest.fixture(scope="module")
def module_redis() -> Iterator[RedisServer]:
    """A Redis server for the tests of one module: workers stay while tests come and go."""
    with RedisServer() as server:
        yield server
