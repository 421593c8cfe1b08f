"""Messages that are delivered and not acknowledged, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import pytest

from kombu_rs import Connection, Queue, launcher
from servers.process import wait_until
from servers.worker import stock_python


def get(queue: Queue, timeout: float = 20):
    """The next message of a queue."""
    found = []
    wait_until(lambda: found.append(queue.get(accept=["json"])) or found[-1], timeout, "a message")
    return found[-1]


def stock(code: str, url: str) -> str:
    """Run code in stock Kombu: `queue` is bound to a channel there. Returns what it prints."""
    begin = f"""
    import json, kombu, os, time
    with kombu.Connection({url!r}, transport_options={{"visibility_timeout": 0.5}}) as connection:
        queue = kombu.Queue("q", channel=connection.channel())
    """
    script = textwrap.dedent(begin) + textwrap.indent(textwrap.dedent(code), "    ")
    done = subprocess.run(
        [stock_python(), "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_consumers_see_how_often_a_message_was_delivered(redis_server):
    with Connection(redis_server.url()) as connection:
        queue = Queue("q")(connection.channel())
        connection.Producer().publish({}, routing_key="q", headers={"mine": 1})
        message = get(queue)
        assert (message.headers, message.delivery_info.get("redelivered")) == ({"mine": 1}, None)
        message.requeue()
        message = get(queue)
        assert message.headers == {"mine": 1, "x-delivery-count": 1, "redelivered": True}
        assert message.delivery_info["redelivered"] is True
        queue.channel.basic_recover(requeue=True)
        assert get(queue).headers["x-delivery-count"] == 2
        queue.channel.close()
        message = get(Queue("q")(connection.channel()))
        assert message.headers["x-delivery-count"] == 3
        message.ack()


def test_stock_workers_hand_on_the_count(redis_server):
    url = redis_server.url()
    with Connection(url) as connection:
        connection.Producer().publish({}, routing_key="q")
        queue = Queue("q")(connection.channel())
        get(queue).requeue()
        seen = stock(
            """
            print(json.dumps(queue.get().headers))
            time.sleep(0.6)
            queue.channel.qos.restore_visible(interval=1)
            message = queue.get()
            print(json.dumps(message.headers))
            message.reject(requeue=True)
            """,
            url,
        )
        counted = {"x-delivery-count": 1, "redelivered": True}
        assert [json.loads(line) for line in seen.splitlines()] == [counted, counted]
        message = get(queue)
        assert message.headers == counted
        message.ack()


def test_stock_workers_and_ours_take_turns(redis_server):
    url = redis_server.url()
    options = {"visibility_timeout": 0.5, "unacked_restore_interval": 0.1}
    stock("kombu.Producer(queue.channel).publish({}, routing_key='q')", url)
    stock("assert queue.get(); os._exit(0)", url)
    with Connection(url, transport_options=options) as connection:
        queue = Queue("q")(connection.channel())
        redis_server.command("SET", "unacked_mutex", "a stock worker", "PX", 300_000)
        # Ours looks again and again, and leaves it to whoever has the lock.
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert queue.get() is None
        redis_server.command("DEL", "unacked_mutex")
        get(queue).ack()
        wait_until(
            lambda: not redis_server.command("EXISTS", "unacked_mutex"), 20, "its turn to end"
        )


@pytest.mark.parametrize("renewed", [True, False])
def test_renewal_can_be_switched_off(redis_server, renewed):
    options = {"visibility_timeout": 0.6, "renew_leases": renewed}
    with (
        Connection(redis_server.url(), transport_options=options) as holder,
        Connection(redis_server.url(), transport_options=options) as other,
    ):
        holder.Producer().publish({}, routing_key="q")
        message = get(Queue("q")(holder.channel()))
        queue = Queue("q")(other.channel())
        if renewed:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                assert queue.get() is None
            message.ack()
            return
        again = get(queue)
        assert again.headers["redelivered"]
        message.ack()  # too late to be heard
        assert redis_server.command("HLEN", "unacked") == 1
        again.ack()


def test_dead_letters_can_be_consumed_and_replayed(redis_server, capsys):
    options = {"delivery_limit": 2, "global_keyprefix": "app:"}
    with Connection(redis_server.url(), transport_options=options) as connection:
        channel = connection.channel()
        queue = Queue("q")(channel)
        for number in range(3):
            connection.Producer().publish({"n": number}, routing_key="q")
            for _ in range(2):
                get(queue).requeue()
        assert queue.get() is None
        letter = get(Queue("q.dead")(channel))
        assert letter.payload == {"n": 0}
        assert letter.headers["x-death"][0]["queue"] == "q"
        assert letter.headers["x-first-death-reason"] == "delivery_limit"
        letter.ack()
        assert channel.replay_dead_letters("q.dead", limit=1) == 1
        message = get(queue)
        assert (message.payload, "x-delivery-count" in message.headers) == ({"n": 1}, False)
        message.ack()
        with pytest.raises(ValueError, match="limit"):
            channel.replay_dead_letters("q.dead", limit=-1)
        command = ["replay", redis_server.url(), "q.dead", "--option", "global_keyprefix=app:"]
        assert launcher.main([*command, "--limit", "5"]) == 0
        assert capsys.readouterr().out == "moved 1 dead letters out of 'q.dead'\n"
        assert get(queue).payload == {"n": 2}


def test_a_replay_may_be_killed(redis_server):
    count = 20_000
    letter = {
        "body": "",
        "headers": {"x-last-death-queue": "q"},
        "properties": {"delivery_info": {}, "delivery_tag": ""},
    }
    with redis_server.client() as client:
        for first in range(0, count, 1000):
            letters = [
                json.dumps(letter | {"number": number}) for number in range(first, first + 1000)
            ]
            client.command("LPUSH", "q.dead", *letters)

    def lengths():
        with redis_server.client() as client:
            return [client.command("LLEN", name) for name in ("q", "q.dead")]

    command = [sys.executable, "-m", "kombu_rs.launcher", "replay", redis_server.url(), "q.dead"]
    with subprocess.Popen(command) as replay:
        wait_until(lambda: lengths()[0], 30, "the replay to begin", 0.001)
        replay.kill()
    moved, left = lengths()
    assert moved + left == count
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"moved {left} dead letters out of 'q.dead'\n"
    numbers = [json.loads(raw)["number"] for raw in redis_server.command("LRANGE", "q", 0, -1)]
    assert sorted(numbers) == list(range(count))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["redis://127.0.0.1:1/0", "q"], "kombu-rs replay: "),
        (["memory://", "q"], "on Redis only"),
        (["redis://h/0", "q", "--option", "visibility_timeout=soon"], "visibility_timeout"),
    ],
)
def test_a_replay_that_fails(capsys, arguments, text):
    assert launcher.main(["replay", *arguments]) == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["redis://h/0", "q", "--limit", "0"], "whole number from 1 on"),
        (["redis://h/0", "q", "--option", "x"], "expected NAME=VALUE"),
        (["redis://h/0"], "usage: kombu-rs replay"),
    ],
)
def test_a_replay_that_is_ill_said(capsys, arguments, text):
    with pytest.raises(SystemExit, match="2"):
        launcher.main(["replay", *arguments])
    assert text in capsys.readouterr().err


def test_limits_are_checked(redis_server):
    for options, text in [
        ({"delivery_limit": 0}, "delivery_limit"),
        ({"dead_letter_queue": "dead"}, "needs 'delivery_limit'"),
    ]:
        with pytest.raises(ValueError, match=text):
            Connection(redis_server.url(), transport_options=options).connect()


def cut_off(server, proxies, seconds: float) -> None:
    """Nobody reaches the server for a while, and all claims run out."""
    for proxy in proxies:
        proxy.refuse()
        proxy.cut()
    begin = time.monotonic()
    for tag in server.command("ZRANGE", "unacked_index", 0, -1):
        server.command("ZADD", "unacked_index", 1, tag)
    wait_until(lambda: time.monotonic() - begin > seconds, 30, "the end of the outage")


def test_whoever_is_back_first_leaves_claims_to_their_owners(new_redis, new_proxy):
    server = new_redis()
    ways = [new_proxy(server.port) for _ in range(2)]
    options = {"visibility_timeout": 9, "reconnect_grace": 60}
    owner, peer = (
        Connection(f"redis://127.0.0.1:{way.port}/0", transport_options=options) for way in ways
    )
    got, taken = [], []
    with owner, peer, owner.Consumer([Queue("q")], on_message=got.append):
        owner.Producer().publish("x", routing_key="q")
        owner.drain_events(timeout=20)
        with peer.Consumer([Queue("q")], on_message=taken.append):
            with pytest.raises(TimeoutError):
                peer.drain_events(timeout=0.1)
            cut_off(server, ways, 3.2)
            ways[1].accept()
            with pytest.raises(TimeoutError):
                peer.drain_events(timeout=2.5)
            assert server.command("ZSCORE", "unacked_index", got[0].delivery_tag) == b"1"
            ways[0].accept()
            wait_until(
                lambda: server.command("ZSCORE", "unacked_index", got[0].delivery_tag) != b"1",
                20,
                "the renewal",
            )
            got[0].ack()
            wait_until(lambda: server.command("HLEN", "unacked") == 0, 20, "the acknowledgement")
    assert (len(got), taken) == (1, [])


def test_claims_whose_owners_do_not_come_back_are_restored_after_an_outage(new_redis, new_proxy):
    server = new_redis()
    way = new_proxy(server.port)
    options = {"visibility_timeout": 1.5, "reconnect_grace": 60}
    with Connection(server.url()) as other:
        other.Producer().publish("x", routing_key="q")
    message = server.command("RPOP", "q").decode()
    got = []
    with (
        Connection(f"redis://127.0.0.1:{way.port}/0", transport_options=options) as connection,
        connection.Consumer([Queue("q")], on_message=got.append),
    ):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        server.command("HSET", "unacked", "gone", f'[{message}, "", "q"]')
        server.command("ZADD", "unacked_index", int(time.time()) + 1000, "gone")
        cut_off(server, [way], 0.6)
        way.accept()
        connection.drain_events(timeout=20)
    assert got[0].headers["redelivered"]
