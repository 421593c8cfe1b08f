"""A `celery worker` process of a test."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import reaper
from .celery_app import SETTINGS
from .process import Process

TESTS = Path(__file__).resolve().parents[1]


def stock_python() -> Path:
    """The interpreter of the environment with stock Kombu, which `make` builds."""
    path = TESTS.parent / ".venv-stock" / "bin" / "python"
    if not path.exists():
        raise RuntimeError(f"{path} is missing: run 'make .venv-stock/.ready' (make test does)")
    return path


class CeleryWorker(Process):
    """`celery worker` through `kombu-rs run`.

    With `stock` on stock Kombu alone; with `as_transport` on stock Kombu with kombu-rs installed
    beside it, whose transport the broker URL may name. `settings` are Celery's; `pool`,
    `concurrency` and further `arguments` go on the command line.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        pool: str = "solo",
        concurrency: int = 2,
        arguments: Sequence[str] = (),
        name: str = "worker",
        stock: bool = False,
        as_transport: bool = False,
    ) -> None:
        self.name = f"{name}@test"
        bin_folder = stock_python().parent if stock else Path(sys.executable).parent
        launcher = [] if stock or as_transport else [bin_folder / "kombu-rs", "run"]
        super().__init__(
            [
                *launcher,
                bin_folder / "celery",
                *("-A", "servers.celery_app", "worker", "--hostname", self.name),
                *("--pool", pool, "--concurrency", str(concurrency), "--loglevel", "INFO"),
                *arguments,
            ],
            log=folder / f"{name}.log",
            env=os.environ
            | {
                SETTINGS: json.dumps(dict(settings)),
                "PYTHONPATH": str(TESTS),
                "PYTHONUNBUFFERED": "1",
                # The tests may run as root, and some accept pickle from themselves.
                "C_FORCE_ROOT": "1",
            },
            cwd=folder,
        )

    def start(self) -> None:
        """Starts the worker and waits until it says that it is ready."""
        seen = self.log_text().count(" ready.")
        super().start()
        self.wait_until(
            lambda: self.log_text().count(" ready.") > seen, 60.0, f"{self.name} to be ready"
        )

    def kill_all(self) -> None:
        """SIGKILL to the worker and all its children at one moment, as when the machine dies."""
        reaper.kill_session(self.pid, self._started)
        self.wait()

    def finish(self, timeout: float = 20.0) -> int:
        """SIGTERM (warm shutdown: running tasks are finished); returns the exit code."""
        self.send(signal.SIGTERM)
        code = self.wait(timeout)
        self.stop()
        return code

    def __enter__(self) -> CeleryWorker:
        self.start()
        return self
