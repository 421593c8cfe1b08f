"""What programs do with the library, for type checkers: it is checked, and never run.

``assert_type`` says what a checker must find out by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty
from typing import Any

from typing_extensions import assert_type

from kombu_rs import (
    Connection,
    Consumer,
    Exchange,
    Message,
    Producer,
    Queue,
    binding,
    connections,
    eventloop,
    messaging,
    parse_url,
    producers,
    uuid,
)
from kombu_rs.asynchronous import Hub, get_event_loop, set_event_loop
from kombu_rs.clocks import LamportClock
from kombu_rs.common import (
    Broadcast,
    collect_replies,
    drain_consumer,
    itermessages,
    maybe_declare,
    send_reply,
)
from kombu_rs.connection import ConnectionPool
from kombu_rs.exceptions import (
    ChannelError,
    ConnectionLimitExceeded,
    ContentDisallowed,
    DecodeError,
    KombuError,
    OperationalError,
)
from kombu_rs.log import get_logger
from kombu_rs.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu_rs.pidbox import Mailbox
from kombu_rs.pools import ProducerPool, set_limit
from kombu_rs.protocols import Channel, ConsumerFactory
from kombu_rs.resource import Resource
from kombu_rs.serialization import register, registry
from kombu_rs.simple import SimpleBuffer, SimpleQueue
from kombu_rs.transport import base, filesystem, memory, native, redis, virtual
from kombu_rs.transport.virtual.exchange import ExchangeType
from kombu_rs.utils.functional import maybe_list, retry_over_time
from kombu_rs.utils.json import register_type
from kombu_rs.utils.limits import TokenBucket
from kombu_rs.utils.objects import cached_property
from kombu_rs.utils.url import as_url, maybe_sanitize_url

logger = get_logger(__name__)

media = Exchange("media", type="topic", durable=True, delivery_mode="persistent")
video = Queue(
    "video",
    exchange=media,
    routing_key="video.#",
    queue_arguments={"x-queue-type": "quorum"},
    max_priority=10,
    message_ttl=60.0,
    expires=3600,
)
images = Queue("images", [binding(media, "png.*"), binding(media, "jpeg.*")])


def on_return(exc: BaseException, exchange: str, routing_key: str, message: Any) -> None:
    logger.warning("returned: %s %s %s", exc, exchange, routing_key)


def errback(exc: BaseException, interval: float) -> None:
    logger.error("broker is away: %r, trying again in %ss", exc, interval)


def publish() -> None:
    with Connection(
        "amqp://guest:guest@localhost:5672//",
        connect_timeout=3,
        heartbeat=10,
        transport_options={"confirm_publish": True},
        failover_strategy="shuffle",
        alternates=["amqp://other//"],
        ssl={"ca_certs": "/etc/ca.pem"},
    ) as connection:
        assert_type(connection, Connection)
        assert_type(connection.ensure_connection(errback=errback, max_retries=3), Connection)
        assert_type(connection.channel(), Channel)
        assert_type(connection.default_channel, Channel)
        assert_type(connection.transport, base.Transport)
        if isinstance(connection.transport, native.Transport):
            assert_type(connection.transport.statistics().published, int)
            assert_type(connection.transport.statistics().oldest_unacked_seconds, float | None)
        assert_type(connection.connected, bool)
        assert_type(connection.as_uri(include_password=False), str)
        assert_type(connection.info(), dict[str, Any])
        assert_type(connection.clone(hostname="redis://"), Connection)
        producer = connection.Producer(serializer="json", on_return=on_return)
        assert_type(producer, Producer)
        producer.publish(
            {"name": "a.avi"},
            exchange=media,
            routing_key="video.new",
            declare=[media, video],
            serializer="json",
            compression="zlib",
            headers={"who": "me"},
            expiration=30.0,
            priority=3,
            delivery_mode="transient",
            mandatory=True,
            retry=True,
            retry_policy={"max_retries": 3, "interval_start": 0.1, "errback": errback},
            timeout=5.0,
            correlation_id=uuid(),
            reply_to="replies",
        )
        producer.publish(b"raw", content_type="application/data", content_encoding="binary")
        with producer.batch(max_size=500) as batch:
            producer.publish("one", routing_key="video")
            batch.flush()
        publish_it = connection.ensure(producer, producer.publish, max_retries=3, errback=errback)
        publish_it("two", routing_key="video")
        assert_type(maybe_declare(video, connection.default_channel), bool)

    with Connection("redis://localhost") as connection, connection.channel() as channel:
        assert_type(channel, Channel)
        Producer(channel, exchange=media, routing_key="video").publish("text", expiration=1)


def as_callback(body: Any, message: Message) -> None:
    assert_type(message.payload, Any)
    assert_type(message.headers, dict[str, Any])
    assert_type(message.delivery_info, dict[str, Any])
    assert_type(message.acknowledged, bool)
    if message.properties.get("correlation_id"):
        message.ack()
    elif message.content_type == "application/json":
        message.reject(requeue=False)
    else:
        message.requeue()


def on_message(message: Message) -> None:
    try:
        logger.info("%r", message.decode())
    except (DecodeError, ContentDisallowed) as exc:
        logger.error("cannot read it: %r", exc)
        message.reject_log_error(logger, (ChannelError,))
    else:
        message.ack_log_error(logger, (ChannelError,))


def on_decode_error(message: Message, exc: BaseException) -> None:
    message.reject()


def consume() -> None:
    with Connection(["amqp://one", "amqp://two"]) as connection:
        consumer = connection.Consumer(
            [video, images],
            callbacks=[as_callback],
            accept=["json", "application/x-yaml"],
            prefetch_count=10,
            on_decode_error=on_decode_error,
            tag_prefix="mine.",
        )
        assert_type(consumer, Consumer)
        with consumer:
            assert_type(consumer.queues, list[Queue])
            consumer.add_queue(Queue("later"))
            consumer.qos(prefetch_count=20)
            consumer.cancel_by_queue("later")
            while True:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    connection.heartbeat_check()
                except connection.connection_errors + connection.channel_errors:
                    break

        with Consumer(connection, [video], callbacks=[lambda body, message: message.ack()]):
            connection.drain_events()

        with Consumer(connection, video, on_message=on_message, no_ack=True):
            for _ in eventloop(connection, limit=10, timeout=5, ignore_timeouts=True):
                pass

        for body, message in itermessages(connection, connection.default_channel, video, limit=1):
            assert_type(message, Message)
            print(body)
            message.ack()
        for _, message in drain_consumer(connection.Consumer(video), limit=3):
            assert_type(message, Message)

        bound = video(connection)
        assert_type(bound, Queue)
        assert_type(bound.declare(), str)
        fetched = bound.get(accept=["json"])
        assert_type(fetched, Message | None)
        if fetched is not None:
            fetched.ack()
        assert_type(bound.purge(), int)
        bound.delete(if_empty=True)
        assert_type(media(connection.default_channel), Exchange)
        assert_type(Queue.from_dict("q", exchange="e", routing_key="r"), Queue)
        assert_type(video.as_dict(recurse=True), dict[str, Any])


def reply(request: Message) -> None:
    with producers[Connection("redis://")].acquire(block=True, timeout=3) as producer:
        assert_type(producer, Producer)
        send_reply(Exchange("replies"), request, {"ok": True}, producer, retry=True)
    with Connection("redis://") as connection, connection.channel() as channel:
        for body in collect_replies(connection, channel, Queue("replies"), timeout=1):
            print(body)


class Worker(ConsumerMixin):
    """A consumer that reconnects."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(
        self, Consumer: ConsumerFactory, channel: Channel
    ) -> list[messaging.Consumer]:
        return [Consumer([video, Broadcast("everyone")], callbacks=[self.on_task])]

    def on_task(self, body: Any, message: Message) -> None:
        message.ack()

    def on_connection_error(self, exc: BaseException, interval: float) -> None:
        logger.error("lost the broker: %r", exc)

    def on_consume_ready(
        self,
        connection: Connection,
        channel: Channel,
        consumers: list[messaging.Consumer],
        **kwargs: Any,
    ) -> None:
        logger.info("ready")


class Relay(ConsumerProducerMixin):
    """A consumer that publishes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        return [Consumer(video, on_message=self.pass_on, prefetch_count=1)]

    def pass_on(self, message: Message) -> None:
        assert_type(self.producer, Producer)
        self.producer.publish(message.payload, exchange=media, routing_key="png.new", retry=True)
        message.ack()


def run_worker() -> None:
    worker = Worker(Connection("redis://"))
    worker.run()
    for _ in worker.consume(limit=None, timeout=5):
        if worker.should_stop:
            break
    worker.should_stop = True


def pooled() -> None:
    set_limit(20)
    pool = connections[Connection("redis://")]
    assert_type(pool, ConnectionPool)
    try:
        with pool.acquire(block=True, timeout=1) as connection:
            assert_type(connection.default_channel, Channel)
    except ConnectionLimitExceeded:
        pool.resize(40)
    producer_pool = producers[Connection("redis://")]
    assert_type(producer_pool, ProducerPool)
    own = Connection("redis://").Pool(limit=5, preload=1)
    assert_type(own, ConnectionPool)
    own.force_close_all()


def simple() -> None:
    with Connection("memory://") as connection:
        with connection.SimpleQueue("q", serializer="json") as queue:
            assert_type(queue, SimpleQueue)
            queue.put({"a": 1}, compression="gzip", headers={"h": 1})
            try:
                message = queue.get(block=True, timeout=1)
            except queue.Empty:
                return
            assert_type(message, Message)
            print(len(queue), queue.qsize(), message.payload)
            message.ack()
            assert_type(queue.clear(), int)
        assert_type(connection.SimpleBuffer("b"), SimpleBuffer)


def event_loop() -> None:
    hub = Hub()
    set_event_loop(hub)
    assert_type(get_event_loop(), Hub | None)
    connection = Connection("redis://")
    connection.register_with_event_loop(hub)
    with Consumer(connection, [video], callbacks=[as_callback]):
        entry = hub.call_later(1.5, print, "later")
        hub.call_repeatedly(10, connection.heartbeat_check)
        hub.call_soon(print, "soon")
        hub.add_reader(0, print, "typed something")
        entry.cancel()
        hub.run_once()
        hub.run_forever()
    hub.stop()
    hub.close()


def serializers() -> None:
    def encode(obj: object) -> str:
        return repr(obj)

    def decode(data: bytes | str) -> object:
        return data

    register("text", encode, decode, content_type="application/x-text", content_encoding="utf-8")
    registry.enable("text")
    register_type(complex, "complex", lambda c: [c.real, c.imag], lambda pair: complex(*pair))
    content_type, content_encoding, payload = registry.dumps({"a": 1}, serializer="json")
    registry.loads(payload, content_type, content_encoding, accept={"application/json"})


class Shuffle(ExchangeType):
    """An exchange type of one's own."""

    type = "shuffle"

    def lookup(self, table: Any, exchange: str, routing_key: str, default: str | None) -> list[str]:
        return [queue for _, _, queue in table]

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        for queue in self.channel._lookup(exchange, routing_key):
            self.channel._put(queue, message, **kwargs)


class DictChannel(virtual.Channel):
    """A transport of one's own, on a dictionary."""

    queues: dict[str, list[Any]] = {}  # noqa: RUF012 - one for all channels
    supports_fanout = True
    do_restore = False

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self.queues.setdefault(queue, [])

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return queue in self.queues

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        self.queues[queue].append(message)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key):
            self._put(queue, message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        try:
            return self.queues[queue].pop(0)
        except (IndexError, KeyError):
            raise Empty() from None

    def _size(self, queue: str) -> int:
        return len(self.queues.get(queue, ()))

    def _purge(self, queue: str) -> int:
        size = self._size(queue)
        self.queues[queue] = []
        return size

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.queues.pop(queue, None)

    @cached_property
    def prefix(self) -> str:
        options = self.connection.client.transport_options
        return str(options.get("prefix", ""))


class DictTransport(virtual.Transport):
    """The transport of :class:`DictChannel`."""

    Channel = DictChannel
    driver_type = "dict"
    driver_name = "dict"
    default_port = 0
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "topic", "fanout"])
    )

    def driver_version(self) -> str:
        return "1"


def own_transport() -> None:
    with Connection(transport=DictTransport) as connection:
        own = connection.channel()
        accepts_channel(own)
        if isinstance(own, DictChannel):
            assert_type(own.prefix, str)


def accepts_channel(channel: Channel) -> None:
    """A channel of any kind will do."""


def channels(
    one: virtual.Channel,
    two: DictChannel,
    three: memory.Channel,
    four: redis.Channel,
    five: filesystem.Channel,
    connection: Connection,
) -> Iterator[Channel]:
    accepts_channel(one)
    accepts_channel(two)
    accepts_channel(three)
    accepts_channel(four)
    accepts_channel(five)
    yield one
    Producer(one).publish("x")
    Consumer(two, video)
    Producer(connection).publish("x")


class Things(Resource[object]):
    """A pool of one's own."""

    def setup(self) -> None:
        for _ in range(self.limit or 0):
            self._resource.put_nowait(self.new())

    def new(self) -> object:
        return object()


def remote_control() -> None:
    mailbox = Mailbox("celery", type="fanout", accept=["json"])
    bound = mailbox(Connection("redis://"))
    node = bound.Node("node@host", state={"a": 1})

    @node.handler
    def ping(state: Any, **kwargs: Any) -> str:
        return "pong"

    with node.listen(callback=node.handle_message):
        bound.cast(["node@host"], "ping")
        for answer in bound.call(["node@host"], "ping", timeout=1):
            print(answer)


def errors() -> None:
    connection = Connection("amqp://nowhere")
    try:
        connection.connect()
    except connection.recoverable_connection_errors as exc:
        print(exc)
    except ChannelError as exc:
        print(exc.reply_code, exc.reply_text)
    except OperationalError as exc:
        raise SystemExit(str(exc))
    except KombuError:
        pass
    finally:
        connection.release()
    assert_type(connection.connection_errors, tuple[type[BaseException], ...])


def utilities() -> None:
    assert_type(as_url("redis", host="localhost", port=6379, password="x", sanitize=True), str)
    assert_type(maybe_sanitize_url("redis://:secret@host"), str)
    assert_type(parse_url("redis://host/0"), dict[str, Any])
    assert_type(LamportClock().forward(), int)
    assert_type(TokenBucket(10, capacity=2).can_consume(), bool)
    assert_type(maybe_list("a"), list[str])
    assert_type(retry_over_time(int, ValueError, args=["1"], max_retries=3), int)
