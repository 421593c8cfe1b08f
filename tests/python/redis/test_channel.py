"""What programs derive from, set and catch on Redis, against a real server."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import closing, suppress
from queue import Empty
from unittest.mock import Mock

import pytest
import redis

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.exceptions import (
    BatchPublishError,
    ChannelError,
    OperationalError,
)
from kombu_rs.transport.redis import Channel, QoS, Transport
from kombu_rs.transport.redis import errors as redis_errors
from servers.process import wait_until


def transport(channel_class: type[Channel]) -> type[Transport]:
    return type("OwnTransport", (Transport,), {"Channel": channel_class})


def connect(redis_server, channel_class=Channel, db=0, **options):
    return Connection(
        hostname="127.0.0.1",
        port=redis_server.port,
        virtual_host=str(db),
        transport=transport(channel_class),
        transport_options=options,
    )


def keys(redis_server) -> set[str]:
    return {key.decode() for key in redis_server.command("KEYS", "*")}


# -- settings


def test_attributes_of_a_class_are_settings_of_the_core(redis_server):
    class Own(Channel):
        sep = "|"
        priority_steps = (0, 5)
        unacked_key = "held"
        unacked_index_key = "held_index"
        keyprefix_queue = "bound(%s)"
        keyprefix_binding_permanent = "kept(%s)"
        global_keyprefix = "app:"

    with connect(redis_server, Own) as connection:
        queue = Queue("q", Exchange("ex"), routing_key="k")(connection.default_channel)
        queue.declare()
        producer = connection.Producer()
        for priority in (0, 9):
            producer.publish({}, exchange="ex", routing_key="k", priority=priority)
        assert keys(redis_server) == {"app:bound(ex)", "app:kept(ex)", "app:q", "app:q|5"}
        message = queue.get()
        assert redis_server.command("HEXISTS", "app:held", message.delivery_tag) == 1
        assert redis_server.command("ZCARD", "app:held_index") == 1
        assert connection.default_channel._q_for_pri("q", 9) == "q|5"
        message.ack()


def test_options_set_what_a_class_names(redis_server):
    class Own(Channel):
        from_transport_options = (*Channel.from_transport_options, "team")
        team = "nobody"

    options = {"team": "red", "global_keyprefix": "red:"}
    with connect(redis_server, Own, **options) as connection:
        channel = connection.default_channel
        assert (channel.team, channel.global_keyprefix) == ("red", "red:")
        connection.Producer().publish({}, routing_key="q")
    assert keys(redis_server) == {"red:q"}
    with pytest.raises(ValueError, match="team"):
        connect(redis_server, team="red").connect()


def test_settings_stay_as_they_were_read(redis_server):
    with connect(redis_server) as connection:
        channel = connection.default_channel
        channel.sep = channel.sep
        with pytest.raises(AttributeError, match="visibility_timeout is a setting"):
            channel.visibility_timeout = 5
        connection.transport_options["sep"] = ":"
        with pytest.raises(ValueError, match="sep cannot differ"):
            connection.channel()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue_order_strategy": "random"}, "random"),
        ({"keyprefix": "x"}, "keyprefix"),
        ({"priority_steps": []}, "priority_steps"),
        ({"visibility_timeout": -1}, "visibility_timeout"),
    ],
)
def test_wrong_options_are_named(redis_server, options, text):
    with pytest.raises((ValueError, TypeError, ImportError, AttributeError), match=text):
        connect(redis_server, **options).connect()


# -- hooks


def test_connparams_say_where_to_connect(redis_server):
    class Own(Channel):
        def _connparams(self, asynchronous=False):
            return {**super()._connparams(asynchronous), "db": 3, "client_name": "own"}

    with connect(redis_server, Own) as connection:
        connection.Producer().publish({}, routing_key="q")
        assert b"name=own " in redis_server.command("CLIENT", "LIST")
    assert b"db3:keys=1" in redis_server.command("INFO", "keyspace")


def test_a_pool_says_where_to_connect(redis_server):
    class Own(Channel):
        def _get_pool(self, asynchronous=False):
            return redis.ConnectionPool(host="127.0.0.1", port=redis_server.port, db=4)

    nowhere = Connection(hostname="nowhere.invalid", transport=transport(Own))
    with nowhere as connection:
        connection.Producer().publish({}, routing_key="q")
        # As in Kombu, where the pool would have filled in the database.
        assert connection.default_channel.keyprefix_fanout == "/{db}."
    assert b"db4:keys=1" in redis_server.command("INFO", "keyspace")


def test_credentials_come_from_a_provider(new_redis):
    server = new_redis(users={"mia": ">s3cret ~* &* +@all"})

    class Provider(redis.CredentialProvider):
        def get_credentials(self):
            return "mia", "s3cret"

    with Connection(
        hostname="127.0.0.1",
        port=server.port,
        transport="redis",
        credential_provider=Provider(),
    ) as connection:
        connection.Producer().publish({}, routing_key="q")
        assert b"user=mia " in server.command("CLIENT", "LIST")


def test_a_client_of_its_own_is_asked_instead_of_the_server(redis_server):
    asked = []

    class Client(redis.Redis):
        def ping(self, **kwargs):
            asked.append("ping")
            return True

    class Own(Channel):
        def _get_client(self):
            return Client

    with connect(redis_server, Own, client_name="core") as connection:
        connection.connect()
        assert asked == ["ping"]
        assert connection.connected
        assert b"name=core " not in redis_server.command("CLIENT", "LIST")
        connection.Producer().publish({}, routing_key="q")  # over the core's own link
        assert b"name=core " in redis_server.command("CLIENT", "LIST")
        assert isinstance(connection.default_channel.client, Client)
    assert keys(redis_server) == {"q"}


def test_what_nobody_would_call_is_refused(redis_server):
    class Own(Channel):
        def _brpop_start(self, timeout=None): ...

        def _do_restore_message(self, *args, **kwargs): ...

    with pytest.raises(NotImplementedError, match="_brpop_start, _do_restore_message"):
        connect(redis_server, Own).connect()

    class Connections(redis.Connection):
        pass

    Connections.__module__ = "program"

    class Other(Channel):
        connection_class = Connections

    with pytest.raises(NotImplementedError, match=r"program\..*Connections"):
        connect(redis_server, Other).connect()


# -- errors


def test_errors_are_those_of_redis_py_too(redis_server, new_redis):
    with pytest.raises(redis.exceptions.ConnectionError) as caught:
        Connection("redis://127.0.0.1:1").connect()
    assert isinstance(caught.value, OperationalError)
    assert caught.type in Transport.connection_errors
    assert type(pickle.loads(pickle.dumps(caught.value))) is caught.type

    server = new_redis(password="right")
    with pytest.raises(redis.exceptions.AuthenticationError) as caught:
        Connection(server.url(password="wrong")).connect()
    assert isinstance(caught.value, Transport.connection_errors)
    assert "wrong" not in repr(caught.value).replace("WRONGPASS", "")

    redis_server.command("SET", "q", "no list")
    with (
        connect(redis_server) as connection,
        pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE") as caught,
    ):
        connection.Producer().publish({}, routing_key="q")
    assert isinstance(caught.value, ChannelError)
    assert isinstance(caught.value, Transport.channel_errors)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (caught.type, str(caught.value))
    assert repr(again).startswith("RedisResponseError(")

    server = new_redis(config={"maxmemory": "1", "maxmemory-policy": "noeviction"})
    with (
        Connection(server.url()) as connection,
        pytest.raises(redis.exceptions.OutOfMemoryError, match="OOM") as caught,
    ):
        connection.Producer().publish({}, routing_key="q")
    assert isinstance(caught.value, Transport.channel_errors)
    assert not isinstance(caught.value, Transport.connection_errors)
    assert type(pickle.loads(pickle.dumps(caught.value))) is caught.type


def test_a_library_that_is_loaded_anew_is_followed(monkeypatch):
    class Other(redis.exceptions.RedisError):
        pass

    first = redis_errors.error_class("connection")
    monkeypatch.setattr(redis.exceptions, "ConnectionError", Other)
    assert issubclass(redis_errors.error_class("connection"), Other)
    monkeypatch.undo()
    assert issubclass(redis_errors.error_class("connection"), first.__mro__[3])


def test_without_redis_py(redis_server):
    program = textwrap.dedent(
        f"""
        import sys
        sys.modules["redis"] = None  # importing it fails
        from kombu_rs import Connection
        from kombu_rs.exceptions import BrokerConnectionError, OperationalError
        from kombu_rs.transport import redis
        with Connection("{redis_server.url()}") as connection:
            with connection.SimpleQueue("plain") as queue:
                queue.put(1)
                message = queue.get(timeout=5)
                message.ack()
            channel = connection.default_channel
            assert channel.connection_class is None
            for ask in (lambda: channel.client, lambda: redis.PrefixedStrictRedis):
                try:
                    ask()
                except ImportError as error:
                    print(error)
        try:
            Connection("redis://127.0.0.1:1").connect()
        except OperationalError as error:
            assert type(error) is BrokerConnectionError
        """
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "pip install redis" in ran.stdout


# -- the client of redis-py


def test_the_client_has_the_prefix(redis_server):
    with connect(redis_server, global_keyprefix="app:", client_name="mine") as connection:
        channel = connection.default_channel
        connection.Producer().publish({}, routing_key="q")
        assert channel.client.llen("q") == 1
        with channel.conn_or_acquire() as client:
            client.sadd("set", "x")
            with client.pipeline() as pipeline:
                pipeline.hset("hash", "name", 1)
                pipeline.execute()
        subscriptions = channel.subclient
        subscriptions.psubscribe("news.*")
        assert subscriptions.get_message(timeout=5)["channel"] == b"news.*"
        channel.client.publish("news.all", "read")
        message = subscriptions.get_message(timeout=5)
        assert (message["pattern"], message["channel"]) == (b"news.*", b"news.all")
        assert channel.client.brpop("q", timeout=1)[0] == b"q"
    assert keys(redis_server) == {"app:set", "app:hash"}
    wait_until(lambda: b"name=mine " not in redis_server.command("CLIENT", "LIST"))


# -- messages


def test_fanout_queues_that_are_to_be_deleted_are(redis_server):
    with connect(redis_server) as connection:
        channel = connection.channel()
        for name, auto_delete in (("gone", True), ("stays", False)):
            queue = Queue(name, Exchange("fx", "fanout"), auto_delete=auto_delete)
            queue(channel).declare()
        assert len(redis_server.command("SMEMBERS", "_kombu.binding.fx")) == 2
        channel.close()
        (left,) = redis_server.command("SMEMBERS", "_kombu.binding.fx")
        assert left.endswith(b"stays")


def test_channels_of_one_connection_share_a_fanout_queue(redis_server):
    got = []
    exchange = Exchange("fx", "fanout")
    queue = Queue("shared", exchange)
    with connect(redis_server) as connection:
        first, second = connection.channel(), connection.channel()
        one = Consumer(first, [queue], callbacks=[lambda body, message: got.append(body)])
        two = Consumer(second, [queue], callbacks=[lambda body, message: got.append(body)])
        one.consume()
        two.consume()
        one.cancel()
        Producer(second, exchange).publish("news")
        connection.drain_events(timeout=5)
    assert got == ["news"]


def test_the_answer_to_a_subscription_ends_a_wait(redis_server):
    with connect(redis_server) as connection:
        queue = Queue("fq", Exchange("fx", "fanout"))
        with Consumer(connection, [queue], callbacks=[print]):
            connection.drain_events(timeout=0.05)
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.05)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("priority", "bbbaaa"), ("sorted", "aaabbb"), ("round_robin", "bababa")],
)
def test_queues_are_asked_in_the_order_of_the_strategy(redis_server, strategy, expected):
    got = []
    with connect(redis_server, queue_order_strategy=strategy) as connection:
        producer = connection.Producer()
        for name in "bbbaaa":
            producer.publish(name, routing_key=name)
        queues = [Queue(name) for name in "ba"]
        consumer = connection.Consumer(queues, callbacks=[lambda body, message: got.append(body)])
        consumer.qos(prefetch_count=10)
        with consumer:
            assert consumer.channel._queue_cycle.items == ["b", "a"] or strategy == "sorted"
            for _ in expected:
                connection.drain_events(timeout=5)
    assert "".join(got) == expected


def test_overdue_messages_come_back_to_who_asks(redis_server):
    with connect(redis_server, visibility_timeout=0.5) as connection:
        channel = connection.default_channel
        assert isinstance(channel.qos, QoS)
        with closing(connection.SimpleQueue("late")) as queue:
            queue.put("x")
            message = queue.get(timeout=5)
            channel.qos.restore_visible(interval=1)
            assert queue.qsize() == 0
            since = redis_server.command("ZSCORE", "unacked_index", message.delivery_tag)

            def renewed():
                return redis_server.command("ZSCORE", "unacked_index", message.delivery_tag) > since

            wait_until(renewed, what="the renewal of the claim")
            wait_until(
                lambda: not message.channel.qos.restore_visible(interval=1) and queue.qsize()
            )
            again = queue.get(timeout=5)
            assert again.headers["redelivered"] is True
            message.ack()  # too late, and of no consequence
            assert redis_server.command("HEXISTS", "unacked", again.delivery_tag) == 1
            again.ack()
        with pytest.raises(ValueError, match="start=5"):
            channel.qos.restore_visible(start=5)


@pytest.mark.parametrize("how", ["requeue", "restore"])
def test_a_message_that_cannot_be_put_back_is_kept(redis_server, new_proxy, how):
    proxy = new_proxy(redis_server.port)
    options = {"visibility_timeout": 0.5 if how == "restore" else 60}
    with Connection(f"redis://127.0.0.1:{proxy.port}", transport_options=options) as connection:
        queue = Queue("kept")(connection.default_channel)
        queue.declare()
        connection.Producer().publish("x", routing_key="kept")
        message = queue.get()
        channel = message.channel

        def put_back():
            if how == "requeue":
                message.requeue()
            else:
                channel.qos.restore_visible(interval=1)
            return redis_server.command("LLEN", "kept")

        time.sleep(options["visibility_timeout"] if how == "restore" else 0)  # its time is over
        proxy.refuse()
        proxy.reset()
        with pytest.raises(OperationalError):
            put_back()
        assert redis_server.command("HEXISTS", "unacked", message.delivery_tag) == 1
        assert redis_server.command("ZSCORE", "unacked_index", message.delivery_tag)
        assert redis_server.command("LLEN", "kept") == 0
        assert channel._credit()[0] == (0 if how == "requeue" else 1)
        proxy.accept()
        # What was rejected once need not be rejected again; it may be.
        again = queue.queue_declare if how == "requeue" else put_back
        wait_until(lambda: again() and redis_server.command("LLEN", "kept"), what="the message")
        if how == "requeue":
            message.requeue()
        assert redis_server.command("HLEN", "unacked") == 0
        again = queue.get(no_ack=True)
        assert (again.payload, again.headers["redelivered"]) == ("x", True)
        assert queue.get(no_ack=True) is None


@pytest.mark.parametrize("requeue", [True, False])
def test_a_rejection_that_fails_does_not_stop_the_consumer(redis_server, new_proxy, requeue):
    proxy = new_proxy(redis_server.port)
    got = []

    def handle(body, message):
        got.append(body)
        if len(got) > 1:
            message.ack()
            return
        proxy.refuse()
        proxy.reset()
        wait_until(lambda: not connection.transport._is_connected(), what="the link to be lost")
        message.reject_log_error(logger, connection.connection_errors, requeue=requeue)
        proxy.accept()

    logger = Mock()
    with Connection(f"redis://127.0.0.1:{proxy.port}/0") as connection:
        for n in range(2):
            connection.Producer().publish(n, routing_key="one-by-one")
        with connection.Consumer(Queue("one-by-one"), callbacks=[handle], prefetch_count=1):
            expected = [0, 1, 0] if requeue else [0, 1]
            deadline = time.monotonic() + 30
            while len(got) < len(expected) and time.monotonic() < deadline:
                with suppress(*connection.connection_errors):  # a time-out is one of them
                    connection.drain_events(timeout=1)
        assert got == expected
        wait_until(lambda: redis_server.command("HLEN", "unacked") == 0, what="no claims")


def test_a_batch_that_fails_says_so_once(redis_server):
    redis_server.command("SET", "q", "no list")
    with connect(redis_server) as connection:
        producer = connection.Producer()
        assert producer.supports_batch_publish
        with (
            pytest.raises(BatchPublishError, match="delivery is uncertain") as caught,
            producer.batch(),
        ):
            producer.publish(1, routing_key="q", retry=True, retry_policy={"max_retries": 3})
        assert isinstance(caught.value.__cause__, redis.exceptions.ResponseError)
        batch = connection.default_channel.create_publish_batch()
        message = connection.default_channel.prepare_message("x")
        batch.publish(message, routing_key="q")
        with pytest.raises(BatchPublishError):
            batch.flush()
        with pytest.raises(BatchPublishError, match="previous failure"):
            batch.publish(message, routing_key="q")
        with pytest.raises(BatchPublishError, match="previous failure"):
            batch.flush()
        batch.close()
        with pytest.raises(RuntimeError, match="closed"):
            batch.publish(message, routing_key="q")


def test_batches_are_off_where_a_client_may_send_twice(redis_server):
    with connect(redis_server, retry_on_timeout=True) as connection:
        assert not Producer(connection).supports_batch_publish
        producer = connection.Producer()
        with producer.batch():
            producer.publish(1, routing_key="q")
            assert redis_server.command("LLEN", "q") == 1


def test_what_publishes_and_keeps_queues_may_be_replaced(redis_server):
    seen = []

    class Own(Channel):
        def _put(self, queue, message, **kwargs):
            seen.append((queue, message["properties"]["priority"]))
            super()._put(queue, message, **kwargs)

        def _new_queue(self, queue, auto_delete=False, **kwargs):
            seen.append((queue, kwargs["durable"]))
            super()._new_queue(queue, auto_delete, **kwargs)

    with connect(redis_server, Own) as connection:
        exchange = Exchange("ex", "topic")
        queue = Queue("q", exchange, routing_key="a.#", expires=60)
        producer = Producer(connection.default_channel)
        assert not producer.supports_batch_publish
        producer.publish("x", exchange=exchange, routing_key="a.b", priority=3, declare=[queue])
        assert seen == [("q", True), ("q", 3)]
        assert keys(redis_server) >= {"q\x06\x163", "_kombu.binding_deadlines"}
        with closing(connection.SimpleQueue(queue)) as simple:
            message = simple.get(timeout=5)
            assert message.payload == "x"
            assert redis_server.command("HLEN", "unacked") == 1
            message.ack()
    assert redis_server.command("HLEN", "unacked") == 0


def test_operations_of_virtual_channels_are_there(redis_server):
    with connect(redis_server) as connection, connect(redis_server) as other:
        channel, peer = connection.default_channel, other.default_channel
        Queue("q", Exchange("ex", "topic"), routing_key="a.*")(channel).declare()
        assert channel.get_table("ex") == [("a.*", r"^a\.[^\.]+$", "q")]
        assert peer.get_table("ex") == [("a.*", None, "q")]  # undeclared there: taken as direct
        channel._put("q", channel.prepare_message("body", properties={"delivery_tag": "t"}))
        assert (peer._size("q"), peer._has_queue("q")) == (1, True)
        message = peer.message_to_python(peer._get("q"))
        assert (message.body, message.delivery_tag) == (b"body", "t")
        with pytest.raises(Empty):
            peer._get("q")
        with pytest.raises(NotImplementedError, match="_get"):
            peer._get = print


def test_the_tag_among_the_properties_is_that_of_the_delivery(redis_server):
    """As in Kombu, where programs acknowledge by either."""
    with Connection(redis_server.url()) as connection:
        queue = connection.SimpleQueue("q")
        queue.put("x")
        message = queue.get(timeout=20)
        assert message.properties["delivery_tag"] == message.delivery_tag
        queue.channel.basic_ack(message.properties["delivery_tag"])
        assert connection.transport.statistics().unacked == 0
