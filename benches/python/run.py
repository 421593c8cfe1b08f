"""Measures kombu-rs against stock Kombu in one run and writes benches/RESULTS.md.

Each measurement is a process of its own; the two implementations take turns (A B A B), the median
of each counts. The servers are started here and are the same for both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from servers.rabbitmq import RabbitMQServer  # noqa: E402
from servers.redis import RedisServer  # noqa: E402

IMPLEMENTATIONS = ("kombu", "kombu_rs")
BODIES = (200, 10 * 1024)
START_ROUNDS = 25
# Whole programs: what starting costs. The names are those that a program of Kombu's begins with.
STARTS = {
    "bare interpreter": "pass",
    "import of the public names": (
        "from {library} import Connection, Consumer, Exchange, Producer, Queue"
    ),
    "the same and a first connection": (
        "from {library} import Connection, Consumer, Exchange, Producer, Queue\n"
        "Connection({url!r}).connect()"
    ),
}
CASES = {
    "memory": ("publish-named", "publish-default", "consume-ack", "round-trip"),
    "redis": (
        "publish-named",
        "publish-default",
        "publish-batch-named",
        "publish-batch-default",
        "consume-ack",
        "round-trip",
        "celery-delay",
        "celery-worker",
    ),
    "rabbitmq": (
        "publish-named",
        "publish-default",
        "publish-confirmed",
        "consume-ack",
        "round-trip",
        "celery-delay",
        "celery-worker",
        "celery-worker-prefetch-4",
        "celery-worker-defaults",
        "celery-worker-gevent",
        "connections",
    ),
    "sqlite": ("publish-named", "publish-default", "consume-ack", "round-trip"),
}


@dataclass
class Row:
    """One line of the table: a case and its measurements by implementation."""

    broker: str
    workload: str
    body: int
    got: dict[str, list[dict[str, float]]] = field(
        default_factory=lambda: {name: [] for name in IMPLEMENTATIONS}
    )
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, implementation: str, key: str) -> float | None:
        """The median of one figure."""
        values = [r[key] for r in self.got[implementation] if key in r]
        return statistics.median(values) if values else None


class Runner:
    """Knows the two interpreters and where the brokers are."""

    def __init__(
        self,
        pythons: dict[str, Path],
        seconds: float,
        redis: RedisServer | None,
        rabbitmq: RabbitMQServer | None,
    ) -> None:
        self.pythons = pythons
        self.seconds = seconds
        self.redis = redis
        self.rabbitmq = rabbitmq

    def once(self, implementation: str, workload: str, *arguments: str) -> dict[str, Any]:
        """One measurement; raises RuntimeError with the end of its output."""
        done = subprocess.run(
            [
                self.pythons[implementation],
                HERE / "workloads.py",
                implementation,
                workload,
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"C_FORCE_ROOT": "1"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-2000:])
        return json.loads(done.stdout.strip().splitlines()[-1])

    def start(self, implementation: str, program: str, url: str) -> float:
        """Milliseconds that one of :data:`STARTS` takes from its start to its end."""
        code = program.format(library=implementation, url=url)
        begin = time.perf_counter()
        # No `timeout`: waiting with one sleeps in steps of up to 50 ms.
        subprocess.run(
            [self.pythons[implementation], "-c", code],
            check=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        return (time.perf_counter() - begin) * 1000

    def servers(self) -> list[str]:
        """The servers and their versions."""
        found = []
        if self.redis:
            version = subprocess.run(
                ["redis-server", "--version"], capture_output=True, text=True, check=False
            ).stdout.split("v=")[-1]
            found.append(f"Redis {version.split()[0]} (nothing written to disk)")
        if self.rabbitmq:
            found.append(f"RabbitMQ {self.rabbitmq.api('GET', 'overview')['rabbitmq_version']}")
        return found or ["no server"]

    @contextmanager
    def empty(self, broker: str) -> Iterator[str]:
        """The URL of a broker without messages."""
        if broker == "redis" and self.redis:
            self.redis.command("FLUSHALL")
            yield self.redis.url()
        elif broker == "rabbitmq" and self.rabbitmq:
            with self.rabbitmq.vhost() as vhost:
                yield self.rabbitmq.url(vhost)
        elif broker == "sqlite":
            with tempfile.TemporaryDirectory(prefix="kombu-rs-bench-") as folder:
                yield f"sqla+sqlite:///{folder}/broker.sqlite"
        else:
            yield "memory://"

    def measure(self, row: Row, implementation: str) -> None:
        """Adds one measurement to a row, on an empty broker."""
        with self.empty(row.broker) as url:
            try:
                row.got[implementation].append(
                    self.once(
                        implementation,
                        row.workload,
                        *("--url", url, "--body", str(row.body), "--seconds", str(self.seconds)),
                    )
                )
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                row.failed[implementation] = str(error)


def figure(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ratio(ours: float | None, stock: float | None, *, more_is_better: bool) -> str:
    """How many times better ours is."""
    if not ours or not stock:
        return "-"
    return f"{(ours / stock if more_is_better else stock / ours):.1f}x"


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def measure_starts(runner: Runner, rounds: int) -> dict[tuple[str, str], float]:
    """Medians in milliseconds by program and implementation; all take turns."""
    got: dict[tuple[str, str], list[float]] = {}
    with runner.empty("redis" if runner.redis else "memory") as url:
        for _ in range(rounds):
            for what, program in STARTS.items():
                for name in IMPLEMENTATIONS:
                    spent = runner.start(name, program, url)
                    got.setdefault((what, name), []).append(spent)
    return {key: statistics.median(values) for key, values in got.items()}


def starts_table(starts: dict[tuple[str, str], float], broker: str) -> list[str]:
    """The section about starting a program."""
    lines = [
        "",
        "## import of the public names",
        "",
        f"Wall time of whole programs (`python -c`), {START_ROUNDS} rounds in turns, medians; more:"
        f" than the same interpreter alone. The connection is to {broker}.",
        "",
        "| program | Kombu ms | ours ms | Kombu more | ours more | ours of Kombu's |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for what in STARTS:
        spent = [starts[what, name] for name in IMPLEMENTATIONS]
        more = [starts[what, name] - starts["bare interpreter", name] for name in IMPLEMENTATIONS]
        share = f"{more[1] / more[0]:.2f}" if more[0] > 0 else "-"
        lines.append(
            f"| {what} | {spent[0]:.1f} | {spent[1]:.1f} |"
            f" {more[0]:.1f} | {more[1]:.1f} | {share} |"
        )
    return lines


def report(
    rows: list[Row], runner: Runner, rounds: int, starts: dict[tuple[str, str], float]
) -> str:
    """The whole of RESULTS.md."""
    info = {name: runner.once(name, "versions") for name in IMPLEMENTATIONS}
    lines = [
        "# Figures against stock Kombu",
        "",
        f"- Date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"- CPU: {cpu_model()}, {os.cpu_count()} cores; {platform.system()} {platform.release()};"
        f" load average at the end {os.getloadavg()[0]:.1f}",
        f"- Stock: {', '.join(f'{k} {v}' for k, v in info['kombu'].items())}",
        f"- Ours: {', '.join(f'{k} {v}' for k, v in info['kombu_rs'].items())}",
        f"- {', '.join(runner.servers())} on the same machine, over TCP",
        f"- {rounds} rounds, the implementations taking turns, each measurement a process of its"
        f" own of about {runner.seconds:g} s; medians",
        "",
        "Written by `make bench`. Rates are messages a second in one thread; CPU is seconds of the"
        " measured process (user and system) per 1,000 messages; ratios say how many times better"
        " ours is. Consuming is with prefetch 100 and one ack a message. Batches are of 1,000"
        " messages; `publish-confirmed` is one of 100 whose messages the broker confirms, which"
        " Kombu publishes one by one. The SQLite files are on"
        " the temporary folder's file system with each implementation's own defaults: Kombu's"
        " sync every transaction to disk, ours write ahead and do not (`synchronous` in the"
        " transport options does).",
    ]
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        lines += [
            "",
            "The machine was busy with other work during this run: rates are below what it can do,"
            " CPU and ratios say more.",
        ]
    for broker in dict.fromkeys(row.broker for row in rows):
        lines += [
            "",
            f"## {broker}",
            "",
            "| work | body | Kombu /s | ours /s | ratio | Kombu CPU | ours CPU | ratio |",
            "| --- | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for row in (r for r in rows if r.broker == broker):
            rates = [row.median(name, "rate") for name in IMPLEMENTATIONS]
            cpus = [row.median(name, "cpu") for name in IMPLEMENTATIONS]
            lines.append(
                f"| {row.workload} | {row.body} | {figure(rates[0])} | {figure(rates[1])} |"
                f" {ratio(rates[1], rates[0], more_is_better=True)} | {figure(cpus[0])} |"
                f" {figure(cpus[1])} | {ratio(cpus[1], cpus[0], more_is_better=False)} |"
            )
    lines += ["", "## latency", ""]
    lines += [
        "| broker | body | Kombu p50 / p99 us | ours p50 / p99 us |",
        "| --- | --: | --: | --: |",
    ]
    for row in rows:
        if row.workload == "round-trip":
            cells = [
                f"{figure(row.median(n, 'p50_us'))} / {figure(row.median(n, 'p99_us'))}"
                for n in IMPLEMENTATIONS
            ]
            lines.append(f"| {row.broker} | {row.body} | {cells[0]} | {cells[1]} |")
    memory = [row for row in rows if row.workload == "connections"]
    if memory:
        lines += ["", "## memory per connection", ""]
    for row in memory:
        cells = (f"{n} {figure(row.median(n, 'kib'))} KiB" for n in IMPLEMENTATIONS)
        lines.append(f"- {row.broker}, with a channel: {', '.join(cells)}")
    lines += starts_table(starts, "Redis" if runner.redis else "memory")
    failures = [(row, name, text) for row in rows for name, text in row.failed.items()]
    if failures:
        lines += ["", "## failed", ""]
        for row, name, text in failures:
            last = text.splitlines()[-1] if text else "no output"
            lines.append(f"- {name}, {row.broker} {row.workload} {row.body}: `{last}`")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Reads the command line, measures, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True, help="interpreter with kombu-rs")
    parser.add_argument("--stock", type=Path, required=True, help="interpreter with stock Kombu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
    parser.add_argument("--broker", action="append", choices=list(CASES), help="only this one")
    parser.add_argument("--workload", action="append", help="only this one")
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "RESULTS.md")
    a = parser.parse_args()
    rows = [
        Row(broker, workload, body)
        for broker in a.broker or CASES
        for workload in CASES[broker]
        if workload in (a.workload or CASES[broker])
        for body in BODIES
        if not (workload.startswith(("celery", "connections")) and body > 1000)
    ]
    with ExitStack() as stack:
        brokers = {row.broker for row in rows}
        runner = Runner(
            {"kombu": a.stock, "kombu_rs": a.ours},
            a.seconds,
            stack.enter_context(RedisServer()) if "redis" in brokers else None,
            stack.enter_context(RabbitMQServer()) if "rabbitmq" in brokers else None,
        )
        starts = measure_starts(runner, START_ROUNDS)
        for row in rows:
            for _ in range(a.rounds):
                for name in IMPLEMENTATIONS:
                    runner.measure(row, name)
            rates = [figure(row.median(name, "rate")) for name in IMPLEMENTATIONS]
            print(
                f"{row.broker} {row.workload} {row.body}: Kombu {rates[0]}/s, ours {rates[1]}/s"
                + "".join(f"; {n} failed" for n in row.failed),
                flush=True,
            )
        a.output.write_text(report(rows, runner, a.rounds, starts))
    print(f"wrote {a.output}")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
