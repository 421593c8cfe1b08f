"""Producer, Consumer and Message over a transport in Python: the path for any channel."""

from __future__ import annotations

import copy
import pickle
import socket
from unittest.mock import Mock, patch

import pytest

from kombu_rs import Consumer, Exchange, Message, Producer, Queue
from kombu_rs.common import (
    Broadcast,
    collect_replies,
    drain_consumer,
    eventloop,
    itermessages,
    maybe_declare,
    send_reply,
)
from kombu_rs.exceptions import (
    ConnectionError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    MessageStateError,
    RecoverableConnectionError,
)

EXCHANGE = Exchange("work", "direct")
QUEUE = Queue("jobs", EXCHANGE, "jobs")


@pytest.fixture
def received(connection):
    """Consume from QUEUE; the list of ``(body, message)`` that came so far."""
    messages = []
    with connection.Consumer(QUEUE, callbacks=[lambda *got: messages.append(got)]):
        yield messages


def publish(connection, body, **kwargs):
    options = {"exchange": EXCHANGE, "routing_key": "jobs", "declare": [QUEUE], **kwargs}
    return connection.Producer().publish(body, **options)


def next_message(connection, received):
    count = len(received)
    while len(received) == count:
        connection.drain_events(timeout=5)
    return received[-1]


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"a": [1, 2.5, None, "é"]}, {}),
        ("text", {"serializer": "raw"}),
        (b"\x00\xff", {"content_type": "application/octet-stream"}),
        ("text", {"content_type": "text/plain"}),
        ({"a": 1}, {"compression": "zlib"}),
    ],
)
def test_bodies_come_as_they_went(connection, received, body, options):
    publish(connection, body, **options)
    got, message = next_message(connection, received)
    assert got == body
    message.ack()


def test_properties_and_headers(connection, received):
    publish(
        connection,
        {},
        headers={"h": 1},
        correlation_id="c",
        priority=4,
        expiration=1.5,
        reply_to=Queue("answers"),
        delivery_mode="transient",
    )
    _, message = next_message(connection, received)
    assert message.headers == {"h": 1}
    properties = message.properties
    assert properties["correlation_id"] == "c"
    assert properties["priority"] == 4
    assert properties["expiration"] == "1500"
    assert properties["reply_to"] == "answers"
    assert properties["delivery_mode"] == 1
    assert message.delivery_info == {"exchange": "work", "routing_key": "jobs"}


def test_arguments_of_the_caller_are_not_changed(connection):
    declare = [QUEUE]
    producer = connection.Producer(exchange=EXCHANGE)
    producer.publish({}, routing_key="jobs", declare=declare)
    assert declare == [QUEUE]
    assert not QUEUE.is_bound


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"expiration": "soon"}, ValueError, "expiration must be a number of seconds, got 'soon'"),
        ({"body": object()}, EncodeError, "object"),
        ({"delivery_mode": "durable"}, KeyError, "delivery_mode"),
    ],
)
def test_messages_that_cannot_be_published(connection, kwargs, error, text):
    kwargs = {"body": {}, **kwargs}
    with pytest.raises(error, match=text):
        publish(connection, kwargs.pop("body"), **kwargs)


def test_producers_that_cannot_publish(connection):
    with pytest.raises(ValueError, match="no channel"):
        Producer(None).publish({})
    with pytest.raises(TypeError, match=r"Exchange\('work'"):
        connection.Producer(exchange="work")


def test_a_producers_exchange_goes_with_it_to_another_channel(connection):
    exchange = Exchange("moved")
    first, second = connection.channel(), connection.channel()
    producer = Producer(first, exchange)
    assert producer.exchange.channel is first
    producer.revive(second)
    assert producer.exchange.channel is second
    producer.revive(connection)  # whose channel is opened later
    assert producer.exchange.channel is connection.default_channel
    producer.exchange = other = Exchange("other")
    producer.revive(first)
    assert (producer.exchange.name, producer.exchange.channel) == ("other", first)
    assert not exchange.is_bound
    assert not other.is_bound


def test_producer_pickles_without_its_channel(connection):
    producer = connection.Producer(exchange=EXCHANGE, serializer="json")
    twin = pickle.loads(pickle.dumps(producer))
    assert (twin.exchange, twin.serializer) == (EXCHANGE, "json")


def test_publish_with_retry_after_a_lost_connection(broker):
    connection = broker.connect()
    producer = connection.Producer(exchange=EXCHANGE)
    first = producer.channel
    first.basic_publish = Mock(side_effect=ConnectionError("lost"))
    told = []
    producer.publish(
        {"n": 1},
        routing_key="jobs",
        declare=[QUEUE],
        retry=True,
        retry_policy={"max_retries": 3, "errback": lambda *a: told.append(a)},
    )
    assert producer.channel is not first
    assert len(told) == 1
    assert len(broker.queues["jobs"]) == 1


def test_declarations_are_remembered_per_connection(broker):
    connection = broker.connect()
    channel = connection.default_channel
    assert maybe_declare(QUEUE, channel) is True
    assert maybe_declare(QUEUE, channel) is False
    assert maybe_declare(QUEUE, connection.channel()) is False
    assert maybe_declare(QUEUE, broker.connect().default_channel, retry=True) is True
    assert maybe_declare(Queue("t", auto_delete=True), channel) is True
    assert maybe_declare(Queue("t", auto_delete=True), channel) is True
    channel.close()
    with pytest.raises(RecoverableConnectionError, match="disconnected"):
        maybe_declare(QUEUE, channel)


def test_queue_that_the_broker_names(connection):
    queue = Queue("")
    maybe_declare(queue, connection.default_channel)
    assert queue.name.startswith("amq.gen-")


def test_consuming_acknowledging_rejecting(broker, connection, received):
    for n in range(4):
        publish(connection, n)
    for _ in range(4):
        next_message(connection, received)
    first, second, third, fourth = (message for _, message in received)
    first.ack()
    second.reject()
    third.requeue()
    assert [m.acknowledged for m in (first, second, third, fourth)] == [True, True, True, False]
    assert next_message(connection, received)[0] == 2
    with pytest.raises(MessageStateError, match="already acknowledged with state: ACK"):
        first.reject()
    fourth.ack(multiple=True)
    assert not broker.queues["jobs"]


def test_prefetch_count(connection):
    got = []
    with connection.Consumer(QUEUE, on_message=got.append, prefetch_count=2):
        for n in range(5):
            publish(connection, n)
        for _ in range(2):
            connection.drain_events(timeout=5)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.02)
        got[0].ack()
        connection.drain_events(timeout=5)
        assert [m.payload for m in got] == [0, 1, 2]


def test_content_that_is_not_accepted(connection, received):
    publish(connection, {"a": 1}, serializer="pickle")
    with pytest.raises(ContentDisallowed):
        next_message(connection, received)
    assert received == []


def test_body_that_cannot_be_decoded(connection):
    errors = []

    def on_decode_error(message, exc):
        errors.append(exc)
        message.reject()

    def never(body, message):
        raise AssertionError("must not be called")

    publish(connection, b"{", content_type="application/json", content_encoding="utf-8")
    with connection.Consumer(QUEUE, callbacks=[never], on_decode_error=on_decode_error):
        connection.drain_events(timeout=5)
        # Rejected: it does not come again.
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.02)
    assert [type(e) for e in errors] == [DecodeError]


def test_body_that_cannot_be_decompressed(connection):
    errors = []
    publish(
        connection,
        b"not zlib",
        content_type="application/data",
        headers={"compression": "application/x-gzip"},
    )
    with connection.Consumer(
        QUEUE, callbacks=[Mock()], on_decode_error=lambda m, e: errors.append(e)
    ):
        connection.drain_events(timeout=5)
    assert len(errors) == 1


def test_consumer_without_callbacks(connection):
    publish(connection, {})
    with connection.Consumer(QUEUE), pytest.raises(NotImplementedError, match="callbacks"):
        connection.drain_events(timeout=5)


def test_queues_of_a_consumer(connection):
    other = Queue("other")
    consumer = Consumer(connection, QUEUE, callbacks=[Mock()])
    consumer.add_queue(other)
    consumer.consume()
    assert consumer.consuming_from("other")
    consumer.cancel_by_queue(other)
    assert not consumer.consuming_from(other)
    assert [q.name for q in consumer.queues] == ["jobs"]
    consumer.revive(connection.channel())
    assert consumer.consuming_from(QUEUE)
    consumer.cancel()
    consumer.revive(connection.channel())
    assert not consumer.consuming_from(QUEUE)


def test_no_ack_by_queue(broker):
    connection = broker.connect()
    got = []
    quick = Queue("quick", no_ack=True)
    with connection.Consumer([quick, QUEUE], on_message=got.append) as consumer:
        connection.Producer().publish({}, routing_key="quick")
        connection.drain_events(timeout=5)
        assert not consumer.channel.qos._delivered
        publish(connection, {})
        connection.drain_events(timeout=5)
        assert len(consumer.channel.qos._delivered) == 1


def test_broadcast_reaches_everybody(connection):
    news = Exchange("news", "fanout")
    queues = [Broadcast("news")(connection) for _ in range(2)]
    for queue in queues:
        queue.declare()
    connection.Producer().publish("hi", exchange=news)
    assert [queue.get().payload for queue in queues] == ["hi", "hi"]
    assert queues[0].name != queues[1].name


def test_request_and_reply(connection):
    answers = Queue("answers", auto_delete=True)
    maybe_declare(answers, connection.default_channel)
    publish(connection, "question", reply_to="answers", correlation_id="7")
    request = QUEUE(connection).get()
    for n in range(2):
        send_reply(Exchange(""), request, {"n": n}, connection.Producer())
    channel = connection.channel()
    replies = collect_replies(connection, channel, answers, limit=2, timeout=5)
    assert list(replies) == [{"n": 0}, {"n": 1}]


def test_loops(connection):
    for n in range(4):
        publish(connection, n)
    channel = connection.channel()
    got = [body for body, _ in itermessages(connection, channel, QUEUE, limit=2, timeout=5)]
    consumer = Consumer(channel, QUEUE)
    got += [body for body, _ in drain_consumer(consumer, limit=2, timeout=5)]
    assert got == [0, 1, 2, 3]
    assert list(eventloop(connection, limit=2, timeout=0.01, ignore_timeouts=True)) == []
    with pytest.raises(socket.timeout):
        list(eventloop(connection, limit=1, timeout=0.01))


class Collecting:
    """What a channel that can send batches returns from ``create_publish_batch``."""

    def __init__(self):
        self.waiting, self.sent, self.closed = [], [], 0

    def publish(self, message, **kwargs):
        self.waiting.append(message)

    def flush(self):
        self.sent += self.waiting
        self.waiting = []

    def discard(self):
        self.waiting = []

    def close(self):
        self.closed += 1


def test_batch_is_sent_together(connection):
    producer = connection.Producer()
    batch = Collecting()
    producer.channel.create_publish_batch = lambda max_size: batch
    with producer.batch(max_size=10) as block:
        producer.publish(1, routing_key="q")
        block.flush()
        producer.publish(2, routing_key="q")
        assert (len(batch.sent), len(batch.waiting)) == (1, 1)
    assert (len(batch.sent), batch.closed) == (2, 1)

    def fail():
        with producer.batch():
            producer.publish(3, routing_key="q")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (len(batch.sent), len(batch.waiting), batch.closed) == (2, 0, 2)
    with pytest.raises(ValueError, match="positive integer"):
        producer.batch(max_size=0)


def test_batch_without_support_publishes_at_once(broker):
    producer = broker.connect().Producer()
    assert not producer.supports_batch_publish
    with producer.batch():
        producer.publish(1, routing_key="q")
        assert len(broker.queues["q"]) == 1


def test_batch_of_a_transport_that_can(connection):
    producer = connection.Producer()
    queue = Queue("q")(connection)
    queue.declare()

    def waiting():
        return queue.queue_declare(passive=True).message_count

    with producer.batch(max_size=3) as batch:
        for n in range(4):
            producer.publish(n, routing_key="q")
        seen = waiting()
        batch.flush()
        assert waiting() == 4
        producer.publish(4, routing_key="q")
    assert seen == (3 if producer.supports_batch_publish else 4)
    assert [queue.get(no_ack=True).payload for _ in range(5)] == [0, 1, 2, 3, 4]


def test_message_without_a_channel():
    with pytest.raises(MessageStateError, match="channel"):
        Message("body").ack()


@pytest.mark.parametrize("url", ["memory://"])
def test_methods_of_one_channel_alone_are_called(url):
    from kombu_rs import Connection

    with Connection(url) as connection:
        channel = connection.channel()
        Producer(channel).publish("x", routing_key="hooks")
        message = channel.basic_get("hooks")
        acked, published = [], []
        channel.basic_ack = lambda tag, multiple=False: acked.append((tag, multiple))
        channel.basic_publish = lambda message, **kwargs: published.append(kwargs["routing_key"])
        message.ack()
        Producer(channel).publish("y", routing_key="hooks")
        assert acked == [(message.delivery_tag, False)]
        assert published == ["hooks"]


def test_consumers_that_need_no_acknowledgement_may_be_named():
    from kombu_rs import Connection

    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.no_ack_consumers = {"tag"}
        message = Message(channel=channel, delivery_tag=1, delivery_info={"consumer_tag": "tag"})
        message.ack()
        assert not message.acknowledged
        channel.no_ack_consumers = None
        message.ack()
        assert message.acknowledged


def test_message_class_with_its_own_decoding(connection):
    class Shouting(Message):
        def decode(self):
            return super().decode().upper()

    publish(connection, "quiet")
    got = []
    with connection.Consumer(QUEUE, callbacks=[lambda *a: got.append(a)]) as consumer:
        consumer.channel.message_to_python = lambda message: Shouting(
            message.body,
            content_type="text/plain",
            content_encoding="utf-8",
            delivery_tag=message.delivery_tag,
            channel=message.channel,
        )
        consumer._receive_callback(consumer.queues[0].get())
    assert got[0][0] == "QUIET"


def test_acknowledging_up_to_a_tag_that_is_not_known(connection):
    for n in range(3):
        publish(connection, n)
    channel = connection.channel()
    assert [QUEUE(channel).get().payload for _ in range(3)] == [0, 1, 2]
    channel.basic_ack("stale", multiple=True)
    channel.basic_recover(requeue=True)
    assert sorted(QUEUE(channel).get(no_ack=True).payload for _ in range(3)) == [0, 1, 2]


def test_a_consumer_is_cancelled_after_hooks_were_undone():
    from kombu_rs import Connection

    got = []
    with Connection("memory://") as connection:
        channel = connection.channel()
        channel.queue_declare("own")
        with patch.object(channel, "_get", side_effect=channel._get):
            channel.basic_consume("own", True, callback=got.append, consumer_tag="polled")
            channel.basic_cancel("polled")
        channel.basic_consume("own", True, callback=got.append, consumer_tag="native")
        channel.basic_cancel("native")
        Producer(channel).publish("x", routing_key="own")
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.05)
        assert got == []
        assert channel.basic_get("own", no_ack=True).payload == "x"


@pytest.mark.parametrize("policy", [{"max_retires": 2}, 5])
def test_retry_policies_are_checked_before_they_are_needed(connection, policy):
    publish(connection, 1)  # what is declared here is not declared again below
    with pytest.raises(TypeError):
        publish(connection, 2, retry=True, retry_policy=policy)
    publish(connection, 3, retry=True, retry_policy={"max_retries": 2, "interval_start": 0})
    publish(connection, 4, retry=False, retry_policy=None)
    queue = QUEUE(connection.default_channel)
    assert [queue.get(no_ack=True).payload for _ in range(3)] == [1, 3, 4]


def test_messages_can_be_copied_and_pickled(connection):
    publish(connection, {"n": 1}, headers={"h": 1}, priority=3)
    message = QUEUE(connection.default_channel).get()
    message.note = "mine"
    twin = copy.copy(message)
    assert twin.channel is message.channel
    message.ack()
    message.channel = None
    for other in (twin, pickle.loads(pickle.dumps(message)), copy.deepcopy(message)):
        assert type(other) is type(message)
        assert other.payload == {"n": 1}
        assert other.headers["h"] == 1
        assert other.note == "mine"
        assert other.delivery_tag == message.delivery_tag
        assert other.delivery_info == message.delivery_info
    assert not twin.acknowledged
    assert pickle.loads(pickle.dumps(message)).acknowledged


def test_a_wait_that_times_out_ends_the_consumer(connection):
    """A TimeoutError is an OSError, as is the loss of a link, after which nothing is cancelled."""
    got = []
    consumer = connection.Consumer(QUEUE, callbacks=[lambda body, message: got.append(body)])
    with pytest.raises(TimeoutError), consumer:
        connection.drain_events(timeout=0.01)
    assert not consumer.consuming_from(QUEUE)
    publish(connection, "later")
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    assert got == []


def test_memory_is_cleared_between_tests():
    from kombu_rs import Connection

    with Connection("memory://") as connection:
        Producer(connection).publish("x", routing_key="left")
        connection.default_channel.queues.clear()
        assert connection.default_channel.basic_get("left") is None
