"""One measurement of one implementation, in a process of its own; prints a line of JSON.

    python workloads.py kombu|kombu_rs WORKLOAD --url URL --body BYTES --seconds S

Stock Kombu and kombu-rs run the same lines below; only the imported package differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: Unacknowledged messages a consumer may hold.
PREFETCH = 100
#: No measurement is longer than this many messages or this many bytes of bodies.
MOST_MESSAGES = 50_000
MOST_BYTES = 100_000_000


#: Messages of a batch that the broker confirms together, where it can.
WINDOW = 100
#: Connections whose memory is measured.
CONNECTIONS = 100


class Bench:
    """A connection, a queue and a body."""

    def __init__(
        self, kombu: Any, url: str, body: int, exchange: str, *, confirm: bool = False
    ) -> None:
        options = {"confirm_publish": True} if confirm else {}
        self.connection = kombu.Connection(url, transport_options=options)
        self.channel = self.connection.default_channel
        name = f"bench-{os.getpid()}"
        self.exchange = kombu.Exchange(exchange and name, type="direct", durable=True)
        self.queue = kombu.Queue(name, exchange=self.exchange, routing_key=name)
        if not exchange:
            self.queue = kombu.Queue(name)
        self.queue(self.channel).declare()
        self.name = name
        self.producer = kombu.Producer(self.channel)
        self.kombu = kombu
        self.body = {"x": "a" * max(0, body - len('{"x": ""}'))}

    def publish(self, count: int) -> None:
        """Publishes `count` messages."""
        publish, body, exchange, key = self.producer.publish, self.body, self.exchange, self.name
        for _ in range(count):
            publish(body, exchange=exchange, routing_key=key)

    def publish_batches(self, count: int, size: int) -> None:
        """Publishes `count` messages with `Producer.batch`, `size` together."""
        with self.producer.batch(max_size=size):
            self.publish(count)

    def consume(self, count: int) -> None:
        """Consumes and acknowledges `count` messages."""
        left = count

        def receive(body: Any, message: Any) -> None:
            nonlocal left
            message.ack()
            left -= 1

        with self.kombu.Consumer(
            self.channel, [self.queue], callbacks=[receive], prefetch_count=PREFETCH
        ):
            drain = self.connection.drain_events
            while left > 0:
                drain(timeout=10)

    def drop(self) -> None:
        """Removes what is left of the messages."""
        with suppress(Exception):
            self.queue(self.channel).purge()


def measured(work: Callable[[], None], count: int) -> dict[str, float]:
    """Rate and CPU of `work`, which handles `count` messages."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": count / wall, "cpu": cpu / count * 1000, "count": count}


def fitting(probe: Callable[[int], None], seconds: float, body: int) -> int:
    """How many messages take about `seconds`, after a warm-up."""
    count = 50
    while True:
        start = time.perf_counter()
        probe(count)
        took = time.perf_counter() - start
        if took > 0.1 or count >= MOST_MESSAGES:
            break
        count *= 4
    return max(50, min(int(count / took * seconds), MOST_MESSAGES, MOST_BYTES // max(body, 1)))


def publish(kombu: Any, url: str, body: int, seconds: float, exchange: str) -> dict[str, float]:
    """Producer.publish to a durable direct exchange, or to the default exchange."""
    bench = Bench(kombu, url, body, exchange)
    count = fitting(bench.publish, seconds, body)
    bench.drop()
    result = measured(lambda: bench.publish(count), count)
    bench.drop()
    bench.connection.release()
    return result


def publish_batch(
    kombu: Any, url: str, body: int, seconds: float, exchange: str, *, confirm: bool = False
) -> dict[str, float]:
    """Producer.batch: 1,000 messages together; those that a broker confirms, 100."""
    bench = Bench(kombu, url, body, exchange, confirm=confirm)

    def work(count: int) -> None:
        bench.publish_batches(count, WINDOW if confirm else 1000)

    count = fitting(work, seconds, body)
    bench.drop()
    result = measured(lambda: work(count), count)
    bench.drop()
    bench.connection.release()
    return result


def connection_memory(kombu: Any, url: str, body: int, seconds: float) -> dict[str, float]:
    """Memory (resident) of connections with one channel each, and a message published on it."""
    bench = Bench(kombu, url, body, "")
    bench.publish(1)

    def resident() -> int:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def connect() -> Any:
        connection = kombu.Connection(url)
        producer = kombu.Producer(connection.default_channel)
        producer.publish(bench.body, exchange=bench.exchange, routing_key=bench.name)
        return connection

    connections = [connect()]
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    connections += [connect() for _ in range(CONNECTIONS)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    kib = (resident() - before) / CONNECTIONS / 1024
    for connection in connections:
        connection.release()
    bench.drop()
    bench.connection.release()
    return {
        "rate": CONNECTIONS / wall,
        "cpu": cpu / CONNECTIONS * 1000,
        "count": CONNECTIONS,
        "kib": kib,
    }


def consume(kombu: Any, url: str, body: int, seconds: float) -> dict[str, float]:
    """Consumer with prefetch 100, one ack a message."""
    bench = Bench(kombu, url, body, "")

    def probe(count: int) -> None:
        bench.publish(count)
        bench.consume(count)

    count = fitting(probe, seconds, body)
    bench.publish(count)
    result = measured(lambda: bench.consume(count), count)
    bench.connection.release()
    return result


def roundtrip(kombu: Any, url: str, body: int, seconds: float) -> dict[str, float]:
    """From publish to the callback of a waiting consumer, one message at a time."""
    bench = Bench(kombu, url, body, "")
    got = 0
    times = []

    def receive(_body: Any, message: Any) -> None:
        nonlocal got
        message.ack()
        got += 1

    other = kombu.Connection(url)
    with kombu.Consumer(
        other.default_channel, [bench.queue], callbacks=[receive], prefetch_count=PREFETCH
    ):
        with suppress(socket.timeout, TimeoutError):
            other.drain_events(timeout=0.05)
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds or len(times) < 20:
            start = time.perf_counter()
            bench.publish(1)
            wanted = got + 1
            while got < wanted:
                other.drain_events(timeout=10)
            times.append(time.perf_counter() - start)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    other.release()
    bench.connection.release()
    times.sort()
    return {
        "rate": len(times) / wall,
        "cpu": cpu / len(times) * 1000,
        "count": len(times),
        "p50_us": statistics.median(times) * 1e6,
        "p99_us": times[int(len(times) * 0.99)] * 1e6,
    }


def celery_app(kombu: Any, url: str) -> Any:
    """A Celery application on the implementation under test."""
    if kombu.__name__ == "kombu_rs":
        kombu.install_as_kombu()
    from celery import Celery

    app = Celery("bench", broker=url)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=f"bench-{os.getpid()}",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
    )
    return app


def celery_delay(kombu: Any, url: str, body: int, seconds: float) -> dict[str, float]:
    """Celery's `task.delay()` with one argument."""
    app = celery_app(kombu, url)

    @app.task
    def nothing(x: str) -> None:
        """Does nothing."""

    argument = "a" * body

    def send(count: int) -> None:
        for _ in range(count):
            nothing.delay(argument)

    count = fitting(send, seconds, body)
    result = measured(lambda: send(count), count)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(app.conf.task_default_queue)
    return result


def celery_worker(
    kombu: Any,
    url: str,
    body: int,
    seconds: float,
    prefetch: int = PREFETCH,
    pool: str = "solo",
    concurrency: int = 1,
    rate: int = 1500,
    *,
    alone: bool = True,
) -> dict[str, float]:
    """A Celery worker and tasks that do nothing, from its first to its last; `rate` of them for
    each of `seconds`. Alone: without what workers tell each other by default."""
    app = celery_app(kombu, url)
    app.conf.worker_prefetch_multiplier = prefetch
    from celery.worker import state

    count = max(200, int(rate * seconds))
    seen = 0
    marks: list[tuple[float, float]] = []

    @app.task
    def nothing(x: str) -> None:
        """Counts itself."""
        nonlocal seen
        seen += 1
        if seen in (100, count):
            marks.append((time.perf_counter(), time.process_time()))
        if seen == count:
            state.should_stop = 0

    for _ in range(count):
        nothing.delay("a" * body)
    worker = app.Worker(
        pool=pool, concurrency=concurrency, loglevel="ERROR", quiet=True, hostname="bench@host",
        without_gossip=alone, without_mingle=alone,
    )  # fmt: skip
    with suppress(SystemExit):
        worker.start()
    done = count - 100
    (wall, cpu), (wall_end, cpu_end) = marks
    return {
        "rate": done / (wall_end - wall),
        "cpu": (cpu_end - cpu) / done * 1000,
        "count": done,
    }


WORKLOADS: dict[str, Callable[[Any, str, int, float], dict[str, float]]] = {
    "publish-named": lambda *a: publish(*a, exchange="named"),
    "publish-default": lambda *a: publish(*a, exchange=""),
    "publish-batch-named": lambda *a: publish_batch(*a, exchange="named"),
    "publish-batch-default": lambda *a: publish_batch(*a, exchange=""),
    "publish-confirmed": lambda *a: publish_batch(*a, exchange="", confirm=True),
    "connections": connection_memory,
    "consume-ack": consume,
    "round-trip": roundtrip,
    "celery-delay": celery_delay,
    "celery-worker": celery_worker,
    "celery-worker-prefetch-4": lambda *a: celery_worker(*a, prefetch=4),
    "celery-worker-defaults": lambda *a: celery_worker(*a, prefetch=4, alone=False),
    # Stock Celery waits 0.1 s for each event there: fewer tasks for it, or it takes minutes.
    "celery-worker-gevent": lambda kombu, *a: celery_worker(
        kombu, *a, prefetch=1, pool="gevent", concurrency=100, rate=GEVENT_RATES[kombu.__name__]
    ),
}
#: Tasks for a second of measuring a gevent worker: what each implementation can do, about.
GEVENT_RATES = {"kombu": 20, "kombu_rs": 1500}


def main() -> None:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("implementation", choices=["kombu", "kombu_rs"])
    parser.add_argument("workload", choices=[*WORKLOADS, "versions"])
    parser.add_argument("--url", default="memory://")
    parser.add_argument("--body", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    a = parser.parse_args()
    if a.workload.endswith("gevent"):
        from gevent import monkey

        monkey.patch_all()
    kombu = importlib.import_module(a.implementation)
    if a.workload == "versions":
        result: dict[str, Any] = versions(a.implementation, kombu)
    else:
        result = WORKLOADS[a.workload](kombu, a.url, a.body, a.seconds)
    print(json.dumps(result))


def versions(name: str, kombu: Any) -> dict[str, Any]:
    """What this process runs on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0], name: kombu.__version__}
    for package in ("celery", "redis", "amqp", "sqlalchemy"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


if __name__ == "__main__":
    main()
