"""What programs are made of: mailboxes, mix-ins, simple queues, Carrot's names."""

from __future__ import annotations

import socket

import pytest

from kombu_rs import Connection, Exchange, Queue, compat
from kombu_rs.exceptions import ConnectionError, InconsistencyError
from kombu_rs.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu_rs.pidbox import Mailbox
from kombu_rs.transport import native_delayed_delivery as delayed


def test_mailbox_call_and_answer(broker):
    mailbox = Mailbox("ns", type="fanout")(broker.connect())
    node = mailbox.Node("here", state={"n": 41}, channel=mailbox.connection.channel())

    @node.handler
    def add(state, n):
        return state["n"] + n

    consumer = node.listen()
    answers = []

    def serve_and_answer(**kwargs):
        for _ in range(100):
            drain(timeout=0.01)
            if answers:
                return

    drain = mailbox.connection.drain_events
    mailbox.connection.drain_events = serve_and_answer
    found = mailbox.call(["here"], "add", {"n": 1}, timeout=5, callback=answers.append)
    assert found == [{"here": 42}]
    answers.clear()
    found = mailbox.multi_call("missing", limit=1, callback=answers.append)
    assert found == [{"here": {"error": "KeyError('missing')"}}]
    consumer.cancel()


def test_mailbox_ignores_what_is_for_others(broker):
    node = Mailbox("ns")(broker.connect()).Node("here")
    node.handlers["ping"] = lambda state: "pong"
    assert node.handle_message({"method": "ping"}) == "pong"
    assert node.handle_message({"method": "ping", "destination": ["there"]}) is None
    body = {"method": "ping", "pattern": "th*", "matcher": "glob"}
    assert node.handle_message(body) is None


def test_mailbox_bad_input(broker):
    mailbox = Mailbox("ns")(broker.connect())
    with pytest.raises(ValueError, match="destination must be a list/tuple"):
        mailbox.cast("here", "ping")
    with pytest.raises(ValueError, match="pattern and matcher must be strings"):
        mailbox._broadcast("ping", pattern=1, matcher=2)
    with pytest.raises(ValueError, match="queue_exclusive and queue_durable"):
        Mailbox("ns", queue_durable=True)


def test_mailbox_in_use(broker):
    node = Mailbox("ns")(broker.connect()).Node("here")
    queue = node.Consumer(channel=node.mailbox.connection.channel()).queues[0]
    with pytest.warns(UserWarning, match="A node named here is already using"):
        queue.on_declared("q", 0, 1)
    locked = node.mailbox.connection.channel_errors[0]("locked")
    locked.code = 405
    queue_of = node.mailbox.get_queue

    def get_queue(hostname):
        queue = queue_of(hostname)
        queue.bind = lambda channel: (_ for _ in ()).throw(locked)
        return queue

    node.mailbox.get_queue = get_queue
    with pytest.raises(InconsistencyError, match="A node named here"):
        node.Consumer(channel=node.mailbox.connection.channel())


class Program(ConsumerMixin):
    """Takes ``limit`` messages; the connection breaks once."""

    queue = Queue("jobs")

    def __init__(self, connection, limit):
        self.connection, self.limit = connection, limit
        self.got, self.starts = [], 0

    def get_consumers(self, Consumer, channel):
        self.starts += 1
        return [Consumer(self.queue, callbacks=[self.on_job])]

    def on_job(self, body, message):
        message.ack()
        self.got.append(body)
        self.should_stop = len(self.got) == self.limit
        if len(self.got) == 1:
            raise ConnectionError("lost")


def test_consumer_mixin_goes_on_after_a_lost_connection(broker):
    producer = broker.connect().Producer()
    for n in range(3):
        producer.publish(n, routing_key="jobs")
    program = Program(broker.connect(), limit=3)
    program.restart_limit.fill_rate = 1000
    program.run()
    assert program.got == [0, 1, 2]
    assert program.starts == 2


@pytest.mark.parametrize("url", ["memory://", "sqla+sqlite:///{}/broker.sqlite"])
def test_errors_of_callbacks_are_not_those_of_a_link(url, tmp_path):
    def missing(**_):
        tried.append(1)
        raise FileNotFoundError

    with Connection(url.format(tmp_path)) as connection:
        connection.Producer().publish(1, routing_key="jobs", declare=[Program.queue])
        program = Program(connection, limit=1)
        program.on_job = lambda body, message: message.ack() or missing()
        tried = []
        with pytest.raises(FileNotFoundError):
            program.run()
        with pytest.raises(FileNotFoundError):
            connection.ensure(connection, missing, max_retries=3)()
        with pytest.raises(FileNotFoundError):
            connection.autoretry(missing, max_retries=3)()
    assert len(tried) == 3


def test_consumer_mixin_timeout(broker):
    program = Program(broker.connect(), limit=1)
    with pytest.raises(socket.timeout):
        list(program.consume(timeout=0.02, safety_interval=0.01))


def test_producer_of_a_mixin_has_its_own_connection(broker):
    class Both(ConsumerProducerMixin, Program):
        pass

    program = Both(broker.connect(), limit=1)
    program.producer.publish(1, routing_key="q")
    assert program.producer_connection is not program.connection
    program.on_consume_end(None, None)
    assert program._producer_connection is None


def test_simple_queue(connection):
    with connection.SimpleQueue("q") as queue:
        assert queue
        for n in range(3):
            queue.put(n)
        assert (len(queue), queue.qsize()) == (3, 3)
        first = queue.get(timeout=5)
        first.ack()
        assert first.payload == 0
        assert queue.get_nowait().payload == 1
        assert queue.clear() == 1
        for wait in ({"timeout": 0}, {"timeout": 0.01}, {"block": False}):
            with pytest.raises(queue.Empty):
                queue.get(**wait)


def test_simple_buffer(connection):
    with connection.SimpleBuffer("b") as buffer:
        assert buffer.no_ack
        assert not buffer.queue.durable
        buffer.put("x")
        assert buffer.get(timeout=5).payload == "x"
    named = connection.SimpleQueue(Queue("own", Exchange("e"), "k"))
    assert (named.queue.routing_key, named.producer.exchange.name) == ("k", "e")


def test_carrot_names(connection):
    with (
        compat.Publisher(connection, exchange="e", routing_key="k") as publisher,
        compat.Consumer(connection, queue="q", exchange="e", routing_key="k") as consumer,
    ):
        publisher.send({"n": 1})
        publisher.send({"n": 2})
        assert consumer.fetch().payload == {"n": 1}
        assert [m.payload for m in consumer.iterqueue()] == [{"n": 2}]
        both = compat.ConsumerSet(
            connection, consumers=[consumer], from_dict={"r": {"exchange": "e", "routing_key": "k"}}
        )
        assert [q.name for q in both.queues] == ["q", "r"]
        both.close()


@pytest.mark.parametrize(
    ("seconds", "bits"), [(1, "1"), (6, "1.1.0"), (2**28 - 1, "1." * 27 + "1")]
)
def test_delay_as_a_routing_key(seconds, bits):
    key = delayed.calculate_routing_key(seconds, "target")
    digits, _, target = key.rpartition(".")
    assert target == "target"
    assert digits.split(".") == ["0"] * (28 - len(bits.split("."))) + bits.split(".")
    assert delayed.calculate_routing_key(1, key) == delayed.calculate_routing_key(1, "target")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((0, "k"), "positive"), ((1, ""), "routing_key"), ((2**28, "k"), "less than")],
)
def test_delays_that_cannot_be(arguments, text):
    with pytest.raises(ValueError, match=text):
        delayed.calculate_routing_key(*arguments)


def test_connection_is_found_by_class(broker):
    assert isinstance(Connection(transport=broker.Transport).transport, broker.Transport)
