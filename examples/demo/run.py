"""Runs a Celery worker on kombu-rs and puts tasks of several kinds through it.

The worker is the stock `celery worker` command (prefork, two processes), started as a process of
its own by `kombu-rs run`. By default the broker is a SQLite file and needs no server.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu_rs

kombu_rs.install_as_kombu()

HERE = Path(__file__).resolve().parent
#: The demo gives up after this many seconds without a finished task.
PATIENCE = 30.0


class DemoFailed(Exception):
    """Something did not come out as it should; the text says what."""


class Run:
    """One run: where things are, and what was sent."""

    def __init__(self, broker: str, count: int, folder: Path) -> None:
        self.name = f"kombu-rs-demo-{uuid.uuid4().hex[:8]}"
        self.count = count
        self.folder = folder
        self.log = folder / "worker.log"
        self.notes = folder / "notes"
        results = folder / "results"
        results.mkdir()
        if broker == "sqlite":
            self.broker = f"sqla+sqlite:///{folder / 'broker.sqlite'}"
            self.results = f"file://{results}"
        else:
            self.broker = self.results = broker
        os.environ |= {
            "DEMO_BROKER": self.broker,
            "DEMO_RESULTS": self.results,
            "DEMO_QUEUE": self.name,
            "DEMO_NOTES": str(self.notes),
        }
        # (kind, the result handle, the value it must have)
        self.sent: list[tuple[str, Any, Any]] = []
        self.executions: collections.Counter[str] = collections.Counter()

    def shown(self, url: str) -> str:
        """A URL without its password."""
        return re.sub(r":[^:@/]*@", ":**@", url)

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """The worker process; its output goes to the log."""
        here = Path(sys.executable).parent
        command = [
            str(here / "kombu-rs"), "run", str(here / "celery"), "--app", "tasks", "worker",
            "--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING",
            "--hostname", f"{self.name}@%h",
        ]  # fmt: skip
        print(f"worker:  {' '.join(Path(c).name if '/' in c else c for c in command)}")
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=HERE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def check_broker(self) -> None:
        """One connection to the broker, so that an absent server is named in one line."""
        from kombu.exceptions import OperationalError

        connection = kombu_rs.Connection(self.broker, connect_timeout=3)
        try:
            connection.ensure_connection(max_retries=1)
        except (OperationalError, OSError) as error:
            raise DemoFailed(
                f"cannot reach the broker {self.shown(self.broker)}: {error}\n"
                "Start a server there, or leave BROKER out to run on SQLite without one."
            ) from None
        finally:
            connection.release()

    def check_implementation(self, process: subprocess.Popen[bytes]) -> None:
        """Sender and worker both run on kombu-rs; the answer also says that the worker is up."""
        import kombu
        import tasks

        handle = tasks.whoami.delay()
        facts = self.wait_for(handle, process, 60, "the worker to answer its first task")
        home = str(Path(kombu_rs.__file__).resolve().parent)
        mine = {
            "kombu": kombu.__name__,
            "file": str(Path(kombu.__file__).resolve().parent),
            "connection": kombu.Connection.__module__,
            "foreign": tasks.foreign_modules(),
        }
        for who, got in (("sender", mine), ("worker", facts)):
            wrong = got["foreign"] or got["file"] != home or not got["kombu"].startswith("kombu_rs")
            if wrong:
                raise DemoFailed(f"the {who} runs on another kombu than ours: {got}")
            print(
                f"{who}:  `import kombu` is {got['kombu']} {kombu_rs.__version__} ({got['file']})"
            )
        handle.forget()

    def wait_for(
        self, handle: Any, process: subprocess.Popen[bytes], timeout: float, what: str
    ) -> Any:
        """The value of one result."""
        deadline = time.monotonic() + timeout
        while not handle.ready():
            self.check_worker(process)
            if time.monotonic() > deadline:
                raise DemoFailed(f"after {timeout:g} s still waiting for {what}")
            time.sleep(0.05)
        return handle.get()

    def check_worker(self, process: subprocess.Popen[bytes]) -> None:
        """Fails when the worker has ended."""
        if process.poll() is not None:
            raise DemoFailed(f"the worker ended with exit code {process.returncode}")

    def send(self) -> None:
        """Sends the tasks, kinds mixed as they come in life; a chain of three counts as three."""
        import tasks
        from celery import chain

        number = 0
        while number < self.count:
            turn = number % 20
            if turn < 3 and number + 3 <= self.count:
                links = [tasks.add.s(1, number), tasks.add.s(number + 1), tasks.add.s(number + 2)]
                self.sent.append(("chain", chain(links).apply_async(), 3 * number + 4))
                self.executions["add"] += 3
                number += 3
                continue
            if turn % 5 == 3:
                handle = tasks.later.apply_async((number,), countdown=1 + number % 3)
                self.sent.append(("countdown", handle, number * number))
                self.executions["later"] += 1
            elif turn % 5 == 4:
                self.sent.append(("retry", tasks.flaky.delay(number), [number, 1]))
                self.executions["flaky"] += 2
            else:
                self.sent.append(("plain", tasks.plain.delay(number), number * number))
                self.executions["plain"] += 1
            number += 1

    def collect(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for every result and compares it, showing how far it is."""
        waiting = list(self.sent)
        wrong: list[str] = []
        last = time.monotonic()
        while waiting:
            self.check_worker(process)
            still = []
            unready = 0
            for kind, handle, expected in waiting:
                # Results come about in the order of sending: asking for all of them each time would
                # take more of the machine than the worker does.
                if unready > 100 or not handle.ready():
                    unready += 1
                    still.append((kind, handle, expected))
                elif handle.failed() or handle.result != expected:
                    wrong.append(
                        f"{kind} {handle.id}: {handle.state} {handle.result!r}, not {expected!r}"
                    )
            now = time.monotonic()
            if len(still) < len(waiting):
                last = now
            elif now - last > PATIENCE:
                left = collections.Counter(kind for kind, _, _ in still)
                raise DemoFailed(f"no result for {PATIENCE:g} s; still out: {dict(left)}")
            waiting = still
            done = len(self.sent) - len(waiting)
            show(f"results: {done} of {len(self.sent)}", final=not waiting)
            if waiting:
                time.sleep(0.1)
        if wrong:
            raise DemoFailed(f"{len(wrong)} results are wrong:\n" + "\n".join(wrong[:10]))

    def check_executions(self) -> None:
        """Every task ran exactly as often as it should have: none lost, none twice."""
        noted = collections.Counter(self.notes.read_text().splitlines())
        kinds: collections.Counter[str] = collections.Counter()
        for line, times in noted.items():
            kind = line.split()[0]
            kinds[kind] += times
            if times != (2 if kind == "flaky" else 1):
                raise DemoFailed(f"task {line!r} ran {times} times")
        if kinds != self.executions:
            raise DemoFailed(f"executions {dict(kinds)}, expected {dict(self.executions)}")

    def clean(self) -> None:
        """Takes what this run left on the user's server away again."""
        if self.broker.startswith("sqla"):
            return  # everything is in the folder, which goes
        for _, handle, _ in self.sent:
            handle.forget()
        with kombu_rs.Connection(self.broker) as connection:
            connection.default_channel.queue_delete(self.name)
            connection.default_channel.exchange_delete(self.name)


_shown_at = 0.0


def show(text: str, *, final: bool = False) -> None:
    """A line of progress: rewritten in place on a terminal, once a second elsewhere."""
    global _shown_at
    terminal = sys.stdout.isatty()
    if not final and time.monotonic() - _shown_at < (0.1 if terminal else 2.0):
        return
    _shown_at = time.monotonic()
    end = "\n" if final or not terminal else ""
    print(("\r" if terminal else "") + text, end=end, flush=True)


def run(broker: str, count: int, folder: Path) -> None:
    """The whole demo; raises DemoFailed."""
    this = Run(broker, count, folder)
    print(f"broker:  {this.shown(this.broker)}")
    print(f"results: {this.shown(this.results)}")
    this.check_broker()
    try:
        with this.worker() as process:
            this.check_implementation(process)
            start = time.monotonic()
            this.send()
            sent = time.monotonic()
            print(f"sent:    {count} tasks in {sent - start:.1f} s, {count / (sent - start):.0f}/s")
            this.collect(process)
            done = time.monotonic()
            this.check_executions()
            process.terminate()
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                raise DemoFailed("the worker did not end within 20 s of SIGTERM") from None
            if code != 0:
                raise DemoFailed(f"the worker ended with exit code {code} after SIGTERM")
    except DemoFailed as error:
        log = this.log.read_text(errors="replace") if this.log.exists() else ""
        raise DemoFailed(f"{error}\n--- end of the worker's log ---\n{log[-4000:]}") from None
    finally:
        this.clean()
    ran = sum(this.executions.values())
    kinds = collections.Counter(kind for kind, _, _ in this.sent)
    print(
        "kinds:   " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        + "; every result was right, every task ran exactly as often as it should"
    )  # fmt: skip
    print(f"ran:     {ran} executions in {done - start:.1f} s, {ran / (done - start):.0f}/s")
    print("worker ended cleanly on SIGTERM")


def main() -> int:
    """Reads the command line, runs, returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="sqlite", help="'sqlite' or a redis:// URL")
    parser.add_argument("--tasks", type=int, default=2000, help="how many tasks to send")
    arguments = parser.parse_args()
    if arguments.broker != "sqlite" and not re.match(r"rediss?://", arguments.broker):
        parser.error(
            f"--broker {arguments.broker!r}: the demo runs on 'sqlite' or on a redis:// URL"
        )
    if arguments.tasks < 1:
        parser.error(f"--tasks {arguments.tasks}: at least 1")
    sys.path.insert(0, str(HERE))
    try:
        with tempfile.TemporaryDirectory(prefix="kombu-rs-demo-") as folder:
            run(arguments.broker, arguments.tasks, Path(folder))
    except DemoFailed as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
