"""Many idle consumers and one publisher on Redis: what a message costs the server.

Stock Kombu blocks in BRPOP, which wakes one consumer. kombu-rs is told by the server when a list
changes, and so is everybody else who waits for it: this measures what that costs. With `--rate 0`
and some `--work` it measures how soon all take part in a burst. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2] / "tests"))

from servers.process import wait_until  # noqa: E402
from servers.redis import RedisServer  # noqa: E402

IMPLEMENTATIONS = ("kombu", "kombu_rs")
#: Consumers in one process: each has a connection and a thread of its own.
THREADS = 25
#: Seconds over which the cost of doing nothing is measured.
IDLE = 5.0


def consume(library: str, url: str, queues: list[str], work: float, stop: threading.Event) -> None:
    """One consumer on each queue, each with a connection and a thread; a message is `work`
    seconds of work. Prints delays, in us.
    """
    kombu = importlib.import_module(library)
    lock = threading.Lock()
    ready = threading.Barrier(len(queues) + 1)

    def received(message: Any) -> None:
        delay = time.monotonic_ns() - message.payload["at"]
        time.sleep(work)
        message.ack()
        with lock:
            print(delay // 1000, flush=True)

    def run(queue: str) -> None:
        with kombu.Connection(url) as connection:
            consumer = kombu.Consumer(
                connection, [kombu.Queue(queue)], on_message=received, accept=["json"]
            )
            consumer.qos(prefetch_count=1)
            with consumer:
                ready.wait()
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=60)
                    except TimeoutError:
                        continue

    for queue in queues:
        threading.Thread(target=run, args=(queue,), daemon=True).start()
    ready.wait()
    print("ready", flush=True)
    sys.stdin.read()
    times = os.times()
    print(f"cpu {times.user + times.system}", flush=True)
    os._exit(0)


class Consumers:
    """A process of consumers."""

    def __init__(
        self, python: Path, library: str, url: str, queues: list[str], work: float
    ) -> None:
        self._process = subprocess.Popen(
            [python, HERE, "--as-consumers", library, url, json.dumps(queues), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.delays: list[int] = []
        self.cpu = 0.0
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                self._ready.set()
            elif line.startswith("cpu "):
                self.cpu = float(line.split()[1])
            else:
                self.delays.append(int(line))

    def wait_ready(self) -> None:
        """Wait until all of them consume."""
        if not self._ready.wait(120):
            raise RuntimeError("the consumers did not start within 120 s")

    def cpu_now(self) -> float:
        """CPU seconds so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(30)
        self._process.stdout.close()


def measure(
    python: Path,
    library: str,
    consumers: int,
    shared: bool,
    messages: int,
    rate: float,
    work: float,
) -> dict[str, float]:
    """One row: `consumers` wait, on one queue or each on its own, for `messages` at `rate`/s, each
    of them `work` seconds of work.
    """
    import kombu_rs

    with RedisServer() as server:

        def used() -> tuple[float, int]:
            info = server.command("INFO", "everything").decode().split("\r\n")
            values = dict(line.split(":", 1) for line in info if ":" in line)
            cpu = float(values["used_cpu_user"]) + float(values["used_cpu_sys"])
            return cpu, int(values["total_commands_processed"])

        names = ["idle" if shared else f"idle-{n}" for n in range(consumers)]
        groups = [
            Consumers(python, library, server.url(), names[at : at + THREADS], work)
            for at in range(0, consumers, THREADS)
        ]
        try:
            for group in groups:
                group.wait_ready()
            time.sleep(IDLE)  # they settle down
            cpu, _ = used()
            time.sleep(IDLE)
            idle = (used()[0] - cpu) / IDLE
            clients = sum(group.cpu_now() for group in groups)
            (cpu, commands), begin = used(), time.monotonic()
            with kombu_rs.Connection(server.url()) as connection:
                producer = connection.Producer()
                for number in range(messages):
                    pause = begin + number / rate - time.monotonic() if rate else 0
                    if pause > 0:
                        time.sleep(pause)
                    producer.publish(
                        {"at": time.monotonic_ns()}, routing_key=names[number % consumers]
                    )
                wait_until(
                    lambda: sum(len(group.delays) for group in groups) >= messages, 120, "the last"
                )
            took = time.monotonic() - begin
            after, commands_after = used()
            clients = sum(group.cpu_now() for group in groups) - clients
        finally:
            for group in groups:
                group.end()
    delays = sorted(delay for group in groups for delay in group.delays)
    return {
        "server us/message": (after - cpu - idle * took) / messages * 1e6,
        "commands/message": (commands_after - commands) / messages,
        "consumers us/message": clients / messages * 1e6,
        "p50 us": statistics.median(delays),
        "p99 us": delays[int(len(delays) * 0.99)],
        "server idle %": idle * 100,
        "ms in all": took * 1000,
    }


def main() -> None:
    """Measures all rows, the implementations taking turns."""
    if sys.argv[1:2] == ["--as-consumers"]:
        library, url, queues, work = sys.argv[2:]
        consume(library, url, json.loads(queues), float(work), threading.Event())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True, help="Python with kombu-rs")
    parser.add_argument("--stock", type=Path, required=True, help="Python with stock Kombu")
    parser.add_argument("--consumers", type=int, default=200)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument(
        "--rate", type=float, default=100.0, help="messages a second; 0: all at once"
    )
    parser.add_argument("--work", type=float, default=0.0, help="seconds of work on a message")
    parser.add_argument("--libraries", nargs="+", default=IMPLEMENTATIONS, choices=IMPLEMENTATIONS)
    parser.add_argument("--one-queue", action="store_true", help="without a queue for each")
    arguments = parser.parse_args()
    pythons = {"kombu": arguments.stock, "kombu_rs": arguments.ours}
    header = None
    for shared in (True,) if arguments.one_queue else (True, False):
        for library in arguments.libraries:
            row = measure(
                pythons[library],
                library,
                arguments.consumers,
                shared,
                arguments.messages,
                arguments.rate,
                arguments.work,
            )
            if header is None:
                header = ["consumers on", "library", *row]
                print("| " + " | ".join(header) + " |")
                print("| --- | --- |" + " --: |" * len(row))
            where = "one queue" if shared else "a queue each"
            cells = [where, library, *(f"{value:,.0f}" for value in row.values())]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
