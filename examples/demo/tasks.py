"""The tasks of the demo: an ordinary Celery application that knows nothing of kombu-rs.

What differs from run to run comes in through environment variables, as `celery worker` is a
process of its own: the broker, the result backend, the queue and the file of executions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery, Task

app = Celery(
    "demo",
    broker=os.environ["DEMO_BROKER"],
    backend=os.environ["DEMO_RESULTS"],
)
app.conf.update(
    task_default_queue=os.environ["DEMO_QUEUE"],
    broker_connection_retry_on_startup=True,
    result_expires=600,
    worker_hijack_root_logger=False,
)


def note(kind: str, number: int) -> None:
    """Appends one line for this execution; short appends to one file do not mix."""
    line = f"{kind} {number}\n".encode()
    fd = os.open(os.environ["DEMO_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


@app.task
def whoami() -> dict[str, Any]:
    """Which messaging library this worker process runs on."""
    import kombu

    return {
        "pid": os.getpid(),
        "kombu": kombu.__name__,
        "file": str(Path(kombu.__file__ or "").resolve().parent),
        "connection": kombu.Connection.__module__,
        "foreign": foreign_modules(),
    }


def foreign_modules() -> list[str]:
    """The modules called `kombu...` in this process that do not come from the package kombu_rs."""
    ours = getattr(sys.modules.get("kombu_rs"), "__file__", None)
    home = Path(ours).resolve().parent if ours else None
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] != "kombu" or file is None:
            continue
        if home is None or home not in Path(file).resolve().parents:
            found.append(name)
    return found


@app.task
def plain(number: int) -> int:
    """The square of a number."""
    note("plain", number)
    return number * number


@app.task
def later(number: int) -> int:
    """The same, sent with a countdown."""
    note("later", number)
    return number * number


@app.task(bind=True, max_retries=3)
def flaky(self: Task, number: int) -> list[int]:
    """Fails the first time and asks for a retry; returns the number and the count of retries."""
    note("flaky", number)
    if self.request.retries == 0:
        raise self.retry(countdown=0.5)
    return [number, self.request.retries]


@app.task
def add(x: int, y: int) -> int:
    """A link of a chain; `y` is unique among the links."""
    note("add", y)
    return x + y
