"""The counters of a transport, each moved by what it counts; on a real server and beside it."""

from __future__ import annotations

import os

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.transport.native import Statistics
from servers.process import wait_until

ZERO = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, None, 0)


def statistics(connection: Connection) -> Statistics:
    return connection.transport.statistics()


def counted(connection: Connection, *names: str) -> list[int]:
    return [getattr(statistics(connection), name) for name in names]


@pytest.fixture(params=["redis", "memory", "sqlite"])
def url(request) -> str:
    fixtures = {"redis": "redis_url", "sqlite": "sqlite_url"}
    if request.param == "memory":
        return "memory://"
    return request.getfixturevalue(fixtures[request.param])


def test_what_users_do_is_counted(url):
    with Connection(url) as connection:
        assert statistics(connection) == ZERO
        queue = connection.SimpleQueue(f"counted-{os.getpid()}")
        for number in range(5):
            queue.put({"number": number})
        assert statistics(connection)._replace(script_seconds=0.0) == ZERO._replace(published=5)
        channel = queue.channel
        names = ("received", "acked", "rejected", "returned", "unacked")
        first, second, third = (channel.basic_get(queue.queue.name) for _ in range(3))
        assert counted(connection, *names) == [3, 0, 0, 0, 3]
        first.ack()
        assert counted(connection, *names) == [3, 1, 0, 0, 2]
        second.reject()
        assert counted(connection, *names) == [3, 1, 1, 0, 1]
        third.requeue()
        assert counted(connection, *names) == [3, 1, 2, 0, 0]
        channel.basic_get(queue.queue.name)
        channel.basic_get(queue.queue.name, no_ack=True)
        assert counted(connection, *names) == [5, 1, 2, 0, 1]
        channel.basic_recover(requeue=True)
        assert counted(connection, *names) == [5, 1, 2, 1, 0]
        assert channel.depth(queue.queue.name) == dict.fromkeys(channel.depth("none"), 0) | {0: 2}
        assert counted(connection, "published", "restored", "renewed", "reconnects") == [5, 0, 0, 0]
        queue.channel.queue_delete(queue.queue.name)


def test_a_message_that_is_held_grows_old(url):
    with Connection(url) as connection:
        queue = connection.SimpleQueue(f"old-{os.getpid()}")
        queue.put("x")
        assert statistics(connection).oldest_unacked_seconds is None
        message = queue.get(timeout=20)
        age = statistics(connection).oldest_unacked_seconds
        assert age is not None
        wait_until(
            lambda: statistics(connection).oldest_unacked_seconds > age, 20, "it to grow old"
        )
        message.ack()
        assert statistics(connection).oldest_unacked_seconds is None


def test_what_is_fetched_ahead_is_told_apart(redis_url):
    with Connection(redis_url) as connection:
        channel = connection.channel()
        queue = Queue("ahead")(channel)
        queue.declare()
        for _ in range(3):
            Producer(channel).publish("x", routing_key="ahead")
        with Consumer(channel, [queue], callbacks=[lambda body, message: None], prefetch_count=10):
            connection.drain_events(timeout=20)
            assert counted(connection, "received", "unacked", "prefetched") == [3, 1, 2]
        # Cancelled: what nobody has seen goes back.
        assert counted(connection, "returned", "unacked", "prefetched") == [2, 1, 0]
        assert channel.depth("ahead")[0] == 2


def test_each_queue_counts_and_a_fanout_counts_once(redis_url):
    with Connection(redis_url) as connection:
        channel = connection.channel()
        for kind in ("direct", "fanout"):
            exchange = Exchange(kind, type=kind)
            for number in range(3):
                Queue(f"{kind}-{number}", exchange, routing_key="key")(channel).declare()
            before = statistics(connection).published
            Producer(channel, exchange=exchange).publish("x", routing_key="key")
            published = statistics(connection).published - before
            assert published == {"direct": 3, "fanout": 1}[kind]


def test_depth_tells_priorities_apart(redis_url):
    with Connection(redis_url) as connection:
        producer = connection.Producer()
        for priority in (0, 0, 4, 9, 9, 9):
            producer.publish("x", routing_key="deep", priority=priority)
        depth = connection.default_channel.depth("deep")
        assert depth == {0: 2, 3: 1, 6: 0, 9: 3}
        assert list(depth) == [0, 3, 6, 9]


def test_scripts_are_counted_as_the_server_counts_them(redis_server):
    def by_server() -> int:
        info = redis_server.command("INFO", "commandstats").decode().split("\r\n")
        calls = [line for line in info if line.startswith("cmdstat_evalsha:")]
        return int(calls[0].split("calls=")[1].split(",")[0]) if calls else 0

    with Connection(redis_server.url()) as connection:
        queue = connection.SimpleQueue("scripts")
        queue.put("x")
        redis_server.command("CONFIG", "RESETSTAT")
        before = statistics(connection)
        queue.get(timeout=20).ack()
        after = statistics(connection)
        assert after.script_calls - before.script_calls == by_server() > 0
        assert after.script_seconds > before.script_seconds


def test_renewals_and_restored_messages_are_counted(redis_url):
    short = {"visibility_timeout": 2}
    with Connection(redis_url, transport_options=short) as connection:
        queue = connection.SimpleQueue("leased")
        queue.put("x")
        message = queue.get(timeout=20)
        wait_until(lambda: statistics(connection).renewed >= 2, 20, "renewals")
        assert statistics(connection).restored == 0
        # As a consumer that has died would leave it: the claim is old, and nobody's.
        connection.default_channel.client.zadd("unacked_index", {"gone": 1})
        record = connection.default_channel.client.hget("unacked", message.delivery_tag)
        connection.default_channel.client.hset("unacked", "gone", record)
        wait_until(
            lambda: (
                queue.queue.channel.qos.restore_visible() or statistics(connection).restored == 1
            ),
            20,
            "the claim to be restored",
        )
        assert connection.default_channel.depth("leased")[0] == 1
        message.ack()


def test_links_after_the_first_are_counted(redis_server):
    with Connection(redis_server.url()) as connection:
        connection.default_channel.depth("q")
        assert statistics(connection).reconnects == 0
        for number in (1, 2):
            redis_server.command("CLIENT", "KILL", "TYPE", "normal")
            with pytest.raises(connection.connection_errors):
                connection.default_channel.depth("q")
            assert connection.default_channel.depth("q")[0] == 0
            assert statistics(connection).reconnects == number


def test_a_forked_child_starts_at_zero(redis_url):
    with Connection(redis_url) as connection:
        connection.SimpleQueue("forked").put("x")
        assert statistics(connection).published == 1
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                zero = statistics(connection) == ZERO
                connection.Producer().publish("x", routing_key="forked")
                code = 0 if zero and statistics(connection).published == 1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert statistics(connection).published == 1
        assert connection.default_channel.depth("forked")[0] == 2
