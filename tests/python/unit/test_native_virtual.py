"""Native channels as virtual ones: the operations are there, and what is replaced is called."""

from __future__ import annotations

import threading
from queue import Empty
from unittest.mock import Mock, patch

import pytest

from kombu_rs import Connection, Exchange, Producer, Queue
from kombu_rs.exceptions import DecodeError
from kombu_rs.transport import memory, sqlalchemy, virtual


@pytest.fixture(params=["memory", "sqlite"])
def connection(request, tmp_path):
    """A connection to a native transport."""
    url = "memory://"
    if request.param == "sqlite":
        url = f"sqla+sqlite:///{tmp_path}/broker.sqlite"
    with Connection(url, transport_options={"polling_interval": 0.01}) as connection:
        yield connection
    memory.Channel.queues.clear()
    memory.Transport.state.clear()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def derived():
    """Connects to ``memory://`` with a channel class of the test's own."""
    opened = []

    def connect(**attributes):
        channel_cls = type("Channel", (memory.Channel,), attributes)
        transport_cls = type("Transport", (memory.Transport,), {"Channel": channel_cls})
        connection = Connection(
            transport=transport_cls, transport_options={"polling_interval": 0.01}
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()
    memory.Channel.queues.clear()
    memory.Transport.state.clear()


def consume(connection, queue, count, then="ack"):
    """The bodies of the next messages."""
    got = []

    def callback(body, message):
        got.append(body)
        getattr(message, then)()

    with connection.Consumer([Queue(queue)], callbacks=[callback]):
        while len(got) < count:
            connection.drain_events(timeout=5)
    return got


def publish(connection, *bodies, queue="q", **options):
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=queue, declare=[Queue(queue)], **options)


class TestOperations:
    def test_classes(self, connection, channel):
        assert isinstance(channel, virtual.Channel)
        assert isinstance(connection.transport, virtual.Transport)

    def test_messages_are_dictionaries(self, connection, channel):
        publish(connection, {"n": 1}, headers={"h": "ä"}, correlation_id="c")
        assert channel._size("q") == 1
        raw = channel._get("q")
        assert raw["content-type"] == "application/json"
        assert raw["headers"] == {"h": "ä"}
        assert raw["properties"]["correlation_id"] == "c"
        assert raw["properties"]["delivery_info"] == {"exchange": "", "routing_key": "q"}
        with pytest.raises(Empty):
            channel._get("q")
        channel._put("q", raw)
        message = channel.basic_get("q")
        assert message.payload == {"n": 1}
        assert message._raw == raw
        assert channel.message_to_python(message) is message
        assert channel.message_to_python(raw).payload == {"n": 1}

    def test_what_is_no_message_is_refused(self, channel):
        with pytest.raises(TypeError, match="must be dicts, got str"):
            channel._put("q", "text")

    def test_queues(self, channel):
        assert not channel._has_queue("q")
        channel._new_queue("q")
        assert channel._has_queue("q")
        channel._put("q", channel.prepare_message("YQ=="))
        assert channel._purge("q") == 1
        channel._delete("q")
        assert not channel._has_queue("q")

    def test_restoring_routes_again(self, connection, channel):
        exchange = Exchange("x", type="topic")
        for name in ("a", "b"):
            Queue(name, exchange, routing_key="k.#")(channel).declare()
        connection.Producer().publish("body", exchange=exchange, routing_key="k.1")
        message = channel.basic_get("a")
        message.ack()
        channel._restore(message)
        assert (channel._size("a"), channel._size("b")) == (1, 2)
        assert channel._get("a")["redelivered"] is True

    def test_lookup_and_tables(self, channel):
        Queue("q", Exchange("x", type="topic"), routing_key="a.*")(channel).declare()
        Queue("other", Exchange("y"), routing_key="k")(channel).declare()
        assert channel._lookup("x", "a.b") == {"q"}
        assert not channel._lookup("x", "b.b")
        assert channel._lookup("", "key") == ["key"]
        assert channel.get_table("x") == [("a.*", r"^a\.[^\.]+$", "q")]
        assert channel.typeof("x").type == "topic"
        assert channel.typeof("nowhere").type == "direct"
        assert {"x", "y"} <= set(channel.get_exchanges())
        assert set(channel.list_bindings()) == {("q", "x", "a.*"), ("other", "y", "k")}
        with pytest.warns(virtual.UndeliverableWarning):
            assert channel._lookup("x", "b.b", "dead") == ["dead"]
        assert channel._has_queue("dead")

    def test_state(self, connection, channel):
        Queue("q", Exchange("x", durable=False), routing_key="k")(channel).declare()
        state = connection.transport.state
        assert state.exchanges["x"]["durable"] is False
        assert state.exchanges["x"]["table"] == [("k", None, "q")]
        assert state.has_binding("q", "x", "k")
        assert list(state.queue_bindings("q")) == [("x", "k", {})]
        state.binding_delete("q", "x", "k")
        assert not state.has_binding("q", "x", "k")
        state.binding_declare("q", "x", "k2", {"a": 1})
        assert state.bindings == {("q", "x", "k2"): {"a": 1}}
        assert state.queue_index == {"q": {("q", "x", "k2")}}
        state.queue_bindings_delete("q")
        assert state.bindings == {}
        state.clear()
        assert "x" not in state.exchanges
        with pytest.raises(KeyError):
            state.binding_declare("q", "x", "k", None)

    def test_a_channel_can_be_driven_by_hand(self, connection, channel):
        publish(connection, 1, 2, 3)
        got = []
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume("q", False, got.append, "tag")
        channel.drain_events()
        channel.drain_events()
        with pytest.raises(Empty):
            channel.drain_events()  # the prefetch limit
        assert [message.payload for message in got] == [1, 2]
        assert not channel.qos.can_consume()
        got[0].ack()
        got[1].requeue()
        channel.drain_events()
        assert got[2].payload in (2, 3)
        channel.close()  # puts the last one back
        assert connection.channel()._size("q") == 2


class TestReplaced:
    def test_put_in_a_derived_class(self, derived):
        seen = []

        def _put(self, queue, message, **kwargs):
            seen.append((queue, message["properties"]["delivery_info"]))
            memory.Channel._put(self, queue, message, **kwargs)

        connection = derived(_put=_put)
        publish(connection, {"n": 1})
        assert seen == [("q", {"exchange": "", "routing_key": "q"})]
        assert not connection.default_channel.supports_batch_publish
        with connection.Producer() as producer, producer.batch():
            producer.publish({"n": 2}, routing_key="q")
        assert len(seen) == 2
        assert consume(connection, "q", 2) == [{"n": 1}, {"n": 2}]
        assert not connection.default_channel._polled

    def test_a_method_of_the_class_for_a_while(self, connection, channel):
        cls, producer = type(channel), Producer(channel)
        producer.publish("before", routing_key="q", declare=[Queue("q")])
        with patch.object(cls, "_put") as put:
            producer.publish("patched", routing_key="q")
        producer.publish("after", routing_key="q")
        (queue, message), _ = put.call_args
        assert queue == "q"
        assert message["content-type"] == "text/plain"
        assert [channel.basic_get("q").payload for _ in range(2)] == ["before", "after"]

    def test_a_method_of_the_object_for_a_while(self, channel):
        producer = Producer(channel)
        producer.publish("before", routing_key="q", declare=[Queue("q")])
        with patch.object(channel, "_put") as put:
            producer.publish("patched", routing_key="q")
        producer.publish("after", routing_key="q")
        put.assert_called_once()
        assert [channel.basic_get("q").payload for _ in range(2)] == ["before", "after"]
        assert channel.supports_batch_publish

    @pytest.mark.parametrize("kind", ["direct", "topic", "fanout", "headers"])
    def test_every_exchange_type_uses_put(self, derived, kind):
        seen = []

        def _put(self, queue, message, **kwargs):
            seen.append(queue)

        def _put_fanout(self, exchange, message, routing_key=None, **kwargs):
            seen.extend(self._lookup(exchange, routing_key))

        connection = derived(_put=_put, _put_fanout=_put_fanout)
        exchange = Exchange(f"replaced.{kind}", type=kind)
        arguments = {"binding_arguments": {"x-match": "all", "a": 1}} if kind == "headers" else {}
        Queue("q", exchange, routing_key="k", **arguments)(connection).declare()
        producer = connection.Producer(exchange=exchange)
        producer.publish("x", routing_key="k", headers={"a": 1})
        assert seen == ["q"]
        if kind == "headers":
            producer.publish("x", routing_key="k", headers={"a": 2})
            assert seen == ["q"]

    def test_get_is_polled(self, derived):
        waiting = ["two", "one"]

        def _get(self, queue, timeout=None):
            if not waiting:
                raise Empty
            message = self.prepare_message(waiting.pop(), content_type="text/plain")
            message["properties"]["delivery_tag"] = str(len(waiting))
            return message

        connection = derived(_get=_get)
        assert connection.channel().basic_get("q").payload == "one"
        assert consume(connection, "q", 1) == ["two"]
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.02)

    def test_polled_and_native_channels_share_a_connection(self, connection):
        polled, native = connection.channel(), connection.channel()
        polled._get = Mock(wraps=polled._get)
        publish(connection, "p", queue="polled")
        publish(connection, "n", queue="native")
        got = []
        for channel, queue in [(polled, "polled"), (native, "native")]:
            consumer = connection.Consumer(
                [Queue(queue)],
                channel=channel,
                callbacks=[lambda body, message: (got.append(body), message.ack())],
            )
            consumer.consume()
        while len(got) < 2:
            connection.drain_events(timeout=5)
        assert sorted(got) == ["n", "p"]
        polled._get.assert_called_with("polled")
        for channel, queue in [(polled, "polled"), (native, "native")]:
            channel.close()
            assert connection.channel()._size(queue) == 0

    def test_get_replaced_while_it_consumes(self, connection, channel):
        publish(connection, 1, 2)
        got = []
        channel.basic_qos(prefetch_count=10)
        channel.basic_consume("q", False, got.append, "tag")
        connection.drain_events(timeout=5)  # the core has fetched both
        channel._get = Mock(wraps=channel._get)
        connection.drain_events(timeout=5)
        assert [message.payload for message in got] == [1, 2]
        channel._get.assert_called_with("q")
        for message in got:
            message.ack()
        channel.close()
        assert connection.channel()._size("q") == 0

    def test_unacknowledged_messages_of_a_polled_channel_go_back(self, connection, channel):
        publish(connection, 1, 2, 3)
        channel._get_and_deliver = Mock(wraps=channel._get_and_deliver)
        got = []
        channel.basic_consume("q", False, got.append, "tag")
        for _ in range(3):
            connection.drain_events(timeout=5)
        got[0].ack()
        got[1].reject()
        assert channel._size("q") == 0
        channel.close()
        assert connection.channel()._get("q")["redelivered"] is True

    def test_restore_is_called_for_a_requeue(self, derived):
        restored = []

        def _restore(self, message):
            restored.append(message.payload)

        connection = derived(_restore=_restore)
        publish(connection, "x")
        assert consume(connection, "q", 1, then="requeue") == ["x"]
        assert restored == ["x"]

    def test_a_message_class(self, derived):
        class Message(virtual.Message):
            pass

        connection = derived(Message=Message)
        publish(connection, "a", "b")
        assert type(connection.default_channel.basic_get("q", no_ack=True)) is Message
        got = []
        with connection.Consumer([Queue("q")], on_message=got.append):
            connection.drain_events(timeout=5)
        assert type(got[0]) is Message

    def test_a_ledger(self, derived):
        class QoS(virtual.QoS):
            acked = ()

            def ack(self, delivery_tag):
                self.acked += (delivery_tag,)
                super().ack(delivery_tag)

        connection = derived(QoS=QoS)
        publish(connection, "x")
        message = connection.default_channel.basic_get("q")
        message.ack()
        assert connection.default_channel.qos.acked == (message.delivery_tag,)
        connection.default_channel.basic_qos(prefetch_count=3)
        assert connection.default_channel.qos.prefetch_count == 3

    def test_looking_after_queues(self, derived):
        calls = []

        def note(name, result=None):
            def method(self, queue, *args, **kwargs):
                calls.append(name)
                return result

            return method

        connection = derived(
            _new_queue=note("new"),
            _size=note("size", 7),
            _purge=note("purge", 3),
            _delete=note("delete"),
            _has_queue=note("has", False),
        )
        channel = connection.default_channel
        assert channel.queue_declare("q").message_count == 7
        assert channel.queue_purge("q") == 3
        with pytest.raises(connection.channel_errors):
            channel.queue_declare("q", passive=True)
        channel.exchange_declare("x")
        channel.queue_bind("q", "x", "k")
        channel.queue_delete("q")
        assert calls == ["new", "size", "purge", "has", "delete"]
        assert not list(channel.list_bindings())

    def test_encoding(self, derived):
        def encode_body(self, body, encoding=None):
            return virtual.Channel.encode_body(self, body.upper(), encoding)

        connection = derived(encode_body=encode_body)
        publish(connection, "abc")
        assert consume(connection, "q", 1) == ["ABC"]

    def test_the_store_has_no_encodings_of_others(self, derived):
        connection = derived(codecs={"rot13": virtual.Base64()}, body_encoding="rot13")
        with pytest.raises(DecodeError, match='must be "base64" or null, not "rot13"'):
            publish(connection, "abc")

    def test_undeliverable_messages(self):
        options = {"deadletter_queue": "dead"}
        with Connection("memory://", transport_options=options) as connection:
            channel = connection.default_channel
            channel.exchange_declare("x")
            with pytest.warns(virtual.UndeliverableWarning):
                connection.Producer().publish("lost", exchange="x", routing_key="nowhere")
            assert channel.basic_get("dead").payload == "lost"
            channel.queue_delete("dead")

    def test_the_transports_delivery(self, connection, channel):
        publish(connection, "x")
        channel.basic_consume("q", True, None, "tag")
        connection.transport._deliver = deliver = Mock()
        connection.drain_events(timeout=5)
        (raw, queue), _ = deliver.call_args
        assert queue == "q"
        assert channel.message_to_python(raw).payload == "x"

    def test_the_transports_cycle(self, connection):
        connection.connect()
        connection.transport.cycle = cycle = Mock()
        connection.drain_events(timeout=1)
        cycle.get.assert_called_once_with(connection.transport._deliver, timeout=1)


class TestLedger:
    def test_qos_is_one_object_and_sees_native_deliveries(self, connection, channel):
        publish(connection, 1, 2)
        assert channel.qos is channel.qos
        channel.basic_qos(prefetch_count=2)
        assert channel.qos.prefetch_count == 2
        first, second = channel.basic_get("q"), channel.basic_get("q")
        assert not channel.qos.can_consume()
        assert channel.qos.can_consume_max_estimate() == 0
        channel.qos.ack(first.delivery_tag)
        assert channel.qos.can_consume_max_estimate() == 1
        channel.qos.reject(second.delivery_tag, requeue=True)
        assert channel.qos.can_consume_max_estimate() == 2
        assert channel._size("q") == 1
        channel.basic_get("q")
        assert channel.qos.restore_unacked() == []
        assert channel._size("q") == 1


class TestEventLoop:
    def test_polled_channels_are_looked_after(self, tmp_path):
        from kombu_rs.asynchronous import Hub

        url = f"sqla+sqlite:///{tmp_path}/broker.sqlite"
        options = {"polling_interval": 0.01}
        hub = Hub()
        with Connection(url, transport_options=options) as connection:
            channel = connection.channel()
            channel._get = Mock(wraps=channel._get)
            got = []
            channel.queue_declare("q")
            channel.basic_consume("q", True, got.append, "tag")
            connection.register_with_event_loop(hub)
            publish(connection, "x")
            for _ in range(500):
                if got:
                    break
                hub.run_once()
            assert got[0].payload == "x"
        hub.close()


class TestMemoryQueues:
    def test_queues_by_name(self, derived):
        connection = derived()
        publish(connection, "a", "b")
        queues = connection.default_channel.queues
        assert "q" in queues
        assert "other" not in queues
        queue = queues["q"]
        assert queue.qsize() == 2
        assert not queue.empty()
        assert not queue.full()
        assert [raw["content-type"] for raw in queue.queue] == ["text/plain"] * 2
        raw = queue.get()
        queue.put(raw)
        assert queue.qsize() == 2
        assert connection.default_channel._queue_for("q") is queue
        assert queues.pop("q") is queue
        assert queues.pop("q", None) is None
        with pytest.raises(KeyError):
            queues.pop("q")
        assert connection.default_channel._size("q") == 0

    def test_getting_waits(self, derived):
        connection = derived()
        queue = connection.default_channel._queue_for("slow")
        with pytest.raises(Empty):
            queue.get_nowait()
        with pytest.raises(Empty):
            queue.get(timeout=0.01)
        later = threading.Timer(0.05, publish, (connection.clone(), "x"), {"queue": "slow"})
        later.start()
        assert queue.get(timeout=5)["properties"]["delivery_info"]["routing_key"] == "slow"
        later.join()

    def test_clearing_queues_leaves_bindings(self, derived):
        connection = derived()
        channel = connection.default_channel
        Queue("q", Exchange("kept"), routing_key="k")(channel).declare()
        channel.queues.clear()
        assert list(channel.queues) == []
        connection.Producer().publish("x", exchange="kept", routing_key="k")
        assert channel.basic_get("q").payload == "x"
        memory.Transport.global_state.clear()
        assert len(memory.Transport.global_state.exchanges) == 0


def test_sqlites_native_channel_prefers_the_native_operations(tmp_path):
    with Connection(f"sqla+sqlite:///{tmp_path}/x.db") as connection:
        channel = connection.default_channel
        assert isinstance(channel, sqlalchemy.Channel)
        assert channel._put.__func__ is not sqlalchemy.Channel._put
        assert channel._is_plain()
