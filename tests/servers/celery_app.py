"""The Celery application of the tests: the same module in the worker process and in the test.

A worker gets its settings as JSON in the environment variable ``TEST_CELERY_SETTINGS``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_app, shared_task

SETTINGS = "TEST_CELERY_SETTINGS"


def make_app(settings: Mapping[str, Any]) -> Celery:
    """An application with these settings; its tasks are the shared ones below."""
    app = Celery("tests", set_as_current=False)
    app.conf.update(settings)
    app.finalize()
    return app


@shared_task
def add(x: Any, y: Any) -> Any:
    """The sum."""
    return x + y


@shared_task
def echo(*args: Any, **kwargs: Any) -> list[Any]:
    """What it was given."""
    return [list(args), kwargs]


@shared_task(bind=True, max_retries=3)
def flaky(self: Task, failures: int) -> int:
    """Fails that many times before it returns how often it was retried."""
    if self.request.retries < failures:
        raise self.retry(countdown=0.1)
    return int(self.request.retries)


@shared_task
def fail(text: str) -> None:
    """Raises ValueError."""
    raise ValueError(text)


@shared_task
def note(path: str, text: str, pause: float = 0.0) -> str:
    """Appends a line to a file, after `pause` seconds of work."""
    time.sleep(pause)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    return text


@shared_task
def hold(started: str, release: str) -> str:
    """Says that it runs by making the file `started`, ends when the file `release` is there."""
    Path(started).touch()
    while not Path(release).exists():
        time.sleep(0.02)
    return "released"


@shared_task(bind=True)
def delivery(self: Task) -> dict[str, Any]:
    """What the message told about its delivery."""
    info = dict(self.request.delivery_info or {})
    return {"info": info, "headers": dict(self.request.headers or {}), "at": time.time()}


@shared_task
def whoami() -> dict[str, Any]:
    """Which messaging library this process runs on."""
    import kombu

    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "name": kombu.__name__,
        "transport": type(current_app.connection().transport).__module__,
        "file": str(Path(kombu.__file__ or "").resolve().parent),
        "modules": sorted(
            name
            for name, module in sys.modules.items()
            if name.partition(".")[0] == "kombu"
            and "kombu_rs" not in (getattr(module, "__file__", None) or "kombu_rs")
        ),
    }


if SETTINGS in os.environ:
    app = make_app(json.loads(os.environ[SETTINGS]))
    app.set_default()
