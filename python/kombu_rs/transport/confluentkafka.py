"""``confluentkafka://``: queues as topics of Apache Kafka.

It needs confluent-kafka (``pip install kombu-rs[confluentkafka]``). A URL is
``confluentkafka://user:password@host:port``.

A queue is a topic, and its consumers are the group ``TOPIC-consumer-group``. Messages are not
removed: a group's committed offset says up to where they have been acknowledged. It moves over a
message when all before it in its partition have been acknowledged too, so what a consumer that
died had not acknowledged comes again, perhaps with some that it had. Direct and topic exchanges;
bindings are known to the connection that declared them.

Options in ``transport_options``:

================================ ================================================================
``connection_wait_time_seconds`` how long to wait for a broker; default 5
``wait_time_seconds``            how long to wait for a message; default 5
``security_protocol``            as librdkafka names it; default plaintext, with the connection's
                                 ``ssl`` (True, or a dictionary with ``ca_certs``, ``certfile``
                                 and ``keyfile``) ``ssl``, or ``sasl_ssl`` if there is a user
``sasl_mechanism``               as librdkafka names it
``num_partitions``               of new topics; default 1
``replication_factor``           of new topics; default 1
``topic_config``                 settings of new topics
``kafka_common_config``          librdkafka's settings, for all that follow
``kafka_admin_config``           for the admin client
``kafka_producer_config``        for producers
``kafka_consumer_config``        for consumers
================================ ================================================================
"""

from __future__ import annotations

from collections import deque
from queue import Empty
from typing import Any

from ..log import get_logger
from ..utils.encoding import str_to_bytes
from ..utils.json import dumps, loads
from ..utils.objects import cached_property
from ..utils.url import maybe_sanitize_url
from . import virtual
from ._channels import NoAckQueues, QueuesWithoutBindings, WithOptions
from ._libraries import missing

try:
    import confluent_kafka
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic
except ImportError:  # the transport says so when it is used
    confluent_kafka = None
    KafkaException = Exception

__all__ = ("Channel", "Message", "NoBrokersAvailable", "QoS", "Transport")

logger = get_logger("kombu.transport.confluentkafka")

KAFKA_CONNECTION_ERRORS: tuple[type[BaseException], ...] = ()
KAFKA_CHANNEL_ERRORS: tuple[type[BaseException], ...] = ()

DEFAULT_PORT = 9092

# Seconds to wait for a message in one of several queues: the others wait meanwhile.
SHARED_WAIT = 0.1


class NoBrokersAvailable(KafkaException):
    """No broker answered in time."""

    retriable = True


class Message(virtual.Message):
    """A message, with the place that it came from."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel=channel, **kwargs)
        self.topic = payload.get("topic")
        self.partition = payload.get("partition")
        self.offset = payload.get("offset")


class Delivery:
    """A message that was delivered; ``record`` is what the library gave."""

    def __init__(self, message: Any, record: Any) -> None:
        self.message = message
        self.record = record
        self.done = False


class Partition:
    """What was delivered of a partition, from the oldest that is not acknowledged on."""

    def __init__(self) -> None:
        self.deliveries: deque[Delivery] = deque()
        self.newest: Any = None

    def append(self, delivery: Delivery) -> None:
        """Note a delivery."""
        if self.deliveries and delivery.message.offset <= self.deliveries[-1].message.offset:
            # The group has given the partition away and got it back: it begins anew.
            self.deliveries.clear()
        self.deliveries.append(delivery)
        self.newest = delivery.message

    def acknowledged(self) -> Any:
        """Return the last message before which none is left to acknowledge; None: no other."""
        last = None
        while self.deliveries and self.deliveries[0].done:
            last = self.deliveries.popleft().record
        return last


class QoS(virtual.QoS):
    """The ledger of a channel, and with it the group's offsets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._partitions: dict[tuple[Any, Any], Partition] = {}
        self._by_tag: dict[Any, list[Delivery]] = {}

    def _forget_parent(self) -> None:
        super()._forget_parent()
        self._partitions.clear()
        self._by_tag.clear()

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note a delivery."""
        delivery = Delivery(message, self.channel._records.pop(delivery_tag, None))
        place = (message.topic, message.partition)
        self._partitions.setdefault(place, Partition()).append(delivery)
        # A producer that tried again may have written a message twice.
        self._by_tag.setdefault(delivery_tag, []).append(delivery)
        self._delivered[delivery_tag] = message

    def ack(self, delivery_tag: Any) -> None:
        """Note that a message was handled, and commit what is complete."""
        self._delivered.pop(delivery_tag, None)
        for delivery in self._by_tag.pop(delivery_tag, ()):
            delivery.done = True
            message = delivery.message
            record = self._partitions[message.topic, message.partition].acknowledged()
            if record is not None:
                self._commit(message.topic, record)

    def _commit(self, topic: str, record: Any) -> None:
        consumer = self.channel._get_consumer(topic)
        try:
            consumer.store_offsets(message=record)
            consumer.commit()
        except KafkaException as exc:
            # The group has given the partition to another consumer, which gets it again.
            logger.warning("cannot acknowledge messages of the topic %r: %s", topic, exc)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Note that a message was rejected.

        Arguments:
            delivery_tag: the message's.
            requeue: have it come again: next, if it is the last that came of its partition;
                otherwise it is written once more, at the end.
        """
        message = self.get(delivery_tag)
        if requeue and self._rewind(message):
            self._forget(delivery_tag)
            return
        if requeue:
            payload = {**message.serializable(), "redelivered": True}
            self.channel._put(message.topic, payload)
        self.ack(delivery_tag)

    def _rewind(self, message: Any) -> bool:
        """Have a message come again; returns whether that can be."""
        partition = self._partitions[message.topic, message.partition]
        if partition.newest is not message:
            # Those after it would come again as well.
            return False
        place = TopicPartition(message.topic, message.partition, message.offset)
        try:
            self.channel._get_consumer(message.topic).seek(place)
        except KafkaException as exc:
            logger.warning("cannot go back to offset %s: %s", message.offset, exc)
            return False
        partition.deliveries.pop()
        partition.newest = None
        return True

    def _forget(self, delivery_tag: Any) -> None:
        self._delivered.pop(delivery_tag, None)
        self._by_tag.pop(delivery_tag, None)

    def restore_unacked(self) -> list[tuple[BaseException, Any]]:
        """Have all unacknowledged messages come again, the last first.

        Returns:
            ``(exception, message)`` for those where that failed.
        """
        errors: list[tuple[BaseException, Any]] = []
        for tag, message in reversed(list(self._delivered.items())):
            try:
                self.reject(tag, requeue=True)
            except Exception as exc:
                errors.append((exc, message))
        return errors

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing: what was not committed comes again by itself."""
        self._on_collect.cancel()


class Channel(NoAckQueues, QueuesWithoutBindings, WithOptions):
    """A channel on Kafka's topics."""

    QoS = QoS
    Message = Message

    default_wait_time_seconds = 5
    default_connection_wait_time_seconds = 5

    _client: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kafka_consumers: dict[str, Any] = {}
        self._kafka_producer: Any = None
        # Topics whose groups were not waited for yet.
        self._joining: set[str] = set()
        # What the library gave, by delivery tag, until the ledger has it.
        self._records: dict[Any, Any] = {}
        # Whether there is a broker is seen now.
        self.client  # noqa: B018

    def sanitize_queue_name(self, queue: str) -> str:
        """Return the name of a queue's topic: Celery has ``@`` in names, Kafka has not."""
        return str(queue).replace("@", "")

    # Clients

    def _get_producer(self, queue: str) -> Any:
        """Return the producer, which is the same for all queues."""
        if self._kafka_producer is None:
            config = {**self.common_config, **(self.options.get("kafka_producer_config") or {})}
            self._kafka_producer = Producer(config)
        return self._kafka_producer

    def _get_consumer(self, queue: str) -> Any:
        """Return the consumer of a queue's topic; it joins the group when it is made."""
        topic = self.sanitize_queue_name(queue)
        consumer = self._kafka_consumers.get(topic)
        if consumer is None:
            consumer = Consumer(
                {
                    "group.id": f"{topic}-consumer-group",
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                    **self.common_config,
                    **(self.options.get("kafka_consumer_config") or {}),
                    # The ledger says up to where messages are handled, not the library.
                    "enable.auto.offset.store": False,
                }
            )
            consumer.subscribe([topic])
            self._kafka_consumers[topic] = consumer
            self._joining.add(topic)
        return consumer

    def _open(self) -> Any:
        """Return an admin client of brokers that answer.

        Raises:
            NoBrokersAvailable: none does.
        """
        client = AdminClient(
            {**self.common_config, **(self.options.get("kafka_admin_config") or {})}
        )
        try:
            client.list_topics(timeout=self.connection_wait_time_seconds)
        except KafkaException as exc:
            raise NoBrokersAvailable(*exc.args) from exc
        return client

    @property
    def client(self) -> Any:
        """The admin client, which all channels of a connection share."""
        if self._client is None:
            if self.connection.admin is None:
                self.connection.admin = self._open()
            self._client = self.connection.admin
        return self._client

    # Queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Create a queue's topic, if it is not there."""
        topic = self.sanitize_queue_name(queue)
        if self._has_queue(queue):
            return
        options: dict[str, Any] = {"replication_factor": self.options.get("replication_factor", 1)}
        if self.options.get("topic_config"):
            options["config"] = self.options["topic_config"]
        new = NewTopic(topic, num_partitions=self.options.get("num_partitions", 1), **options)
        try:
            self._wait(self.client.create_topics([new], **self._request()))
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                # Brokers that refuse may still create it when it is first used.
                logger.warning("cannot create the topic %r: %s", topic, exc)

    def _request(self) -> dict[str, Any]:
        return {"request_timeout": self.connection_wait_time_seconds}

    @staticmethod
    def _wait(futures: dict[str, Any]) -> None:
        for future in futures.values():
            future.result()

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Whether a queue's topic is there."""
        topics = self.client.list_topics(timeout=self.connection_wait_time_seconds).topics
        return self.sanitize_queue_name(queue) in topics

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue's topic."""
        topic = self.sanitize_queue_name(queue)
        consumer = self._kafka_consumers.pop(topic, None)
        if consumer is not None:
            consumer.close()
        try:
            self._wait(self.client.delete_topics([topic], **self._request()))
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise

    def _size(self, queue: str) -> int:
        """How many messages are not acknowledged, in the partitions that this channel has."""
        consumer = self._kafka_consumers.get(self.sanitize_queue_name(queue))
        if consumer is None:
            return 0
        size = 0
        for place in consumer.assignment():
            low, high = consumer.get_watermark_offsets(place)
            (committed,) = consumer.committed([place])
            # Below zero: nothing was committed yet.
            size += max(high - max(committed.offset, low), 0)
        return size

    def _purge(self, queue: str) -> int:
        raise NotImplementedError(
            f"the queue {queue!r} cannot be purged: Kafka keeps messages as long as the topic says"
        )

    # Publishing

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Write a message, and wait until the brokers have it."""
        failures: list[Any] = []

        def delivered(error: Any, record: Any) -> None:
            if error is not None:
                failures.append(error)

        producer = self._get_producer(queue)
        body = str_to_bytes(dumps(message))
        producer.produce(self.sanitize_queue_name(queue), body, on_delivery=delivered)
        producer.flush()
        if failures:
            raise KafkaException(failures[0])

    # Consuming

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> Any:
        return cycle.get(callback, timeout=timeout)

    def _get_and_deliver(self, queue: str, callback: Any, timeout: float | None = None) -> None:
        wait = self.wait_time_seconds
        if len(self.connection._callbacks) > 1:
            wait = min(wait, SHARED_WAIT)
        if timeout is not None:
            wait = min(wait, timeout)
        callback(self._get(queue, wait=wait), queue)

    def _get(  # type: ignore[override]
        self, queue: str, wait: float | None = None, no_ack: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Take the next message.

        Arguments:
            queue: its name.
            wait: for a message, in seconds; None, and the first time: ``wait_time_seconds``.
            no_ack: acknowledge it at once.

        Raises:
            queue.Empty: none came.
            KafkaException: the topic cannot be read.
        """
        consumer, topic = self._get_consumer(queue), self.sanitize_queue_name(queue)
        if wait is None or topic in self._joining:
            # A new consumer gets nothing for some seconds, which is not the caller's time.
            wait = self.wait_time_seconds
            self._joining.discard(topic)
        record = consumer.poll(wait)
        if record is None:
            raise Empty()
        error = record.error()
        if error is not None:
            if error.code() not in self._passing():
                raise KafkaException(error)
            logger.debug("no message of the queue %r: %s", queue, error)
            raise Empty()
        payload = {
            **loads(record.value()),
            "topic": record.topic(),
            "partition": record.partition(),
            "offset": record.offset(),
        }
        tag = payload["properties"]["delivery_tag"]
        self._records[tag] = record
        if no_ack or queue in self._noack_queues:
            self.qos.append(self.Message(payload, channel=self), tag)
            self.qos.ack(tag)
        return payload

    @staticmethod
    def _passing() -> set[int]:
        """Codes of errors that end by themselves, or are none."""
        return {
            KafkaError._PARTITION_EOF,
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._TRANSPORT,
            KafkaError._MAX_POLL_EXCEEDED,
            KafkaError.UNKNOWN_TOPIC_OR_PART,
        }

    def close(self) -> None:
        """Cancel the consumers, and leave their groups."""
        super().close()
        while self._kafka_consumers:
            self._kafka_consumers.popitem()[1].close()
        self._kafka_producer = None

    # Settings

    @property
    def options(self) -> dict[str, Any]:
        """The connection's options."""
        return self.connection.client.transport_options

    @cached_property
    def wait_time_seconds(self) -> float:
        """How long to wait for a message."""
        return self.options.get("wait_time_seconds", self.default_wait_time_seconds)

    @cached_property
    def connection_wait_time_seconds(self) -> float:
        """How long to wait for a broker."""
        default = self.default_connection_wait_time_seconds
        return self.options.get("connection_wait_time_seconds", default)

    @cached_property
    def common_config(self) -> dict[str, Any]:
        """librdkafka's settings of all clients."""
        info, options = self.conninfo, self.options
        port = int(info.port or self.connection.default_port)
        config = {"bootstrap.servers": f"{info.hostname or 'localhost'}:{port}"}
        protocol = options.get("security_protocol")
        if not protocol and info.ssl:
            protocol = "sasl_ssl" if info.userid else "ssl"
        if protocol:
            config["security.protocol"] = protocol
            if protocol.lower().startswith("sasl"):
                given = {
                    "sasl.mechanism": options.get("sasl_mechanism"),
                    "sasl.username": info.userid,
                    "sasl.password": info.password,
                }
                config.update((name, value) for name, value in given.items() if value is not None)
        elif info.userid:
            logger.warning(
                "user and password are not used: give the transport option 'security_protocol', "
                "such as sasl_ssl or sasl_plaintext"
            )
        if isinstance(info.ssl, dict):
            names = {
                "ca_certs": "ssl.ca.location",
                "certfile": "ssl.certificate.location",
                "keyfile": "ssl.key.location",
            }
            config.update((names[k], v) for k, v in info.ssl.items() if k in names and v)
        return {**config, **(options.get("kafka_common_config") or {})}


class Transport(virtual.Transport):
    """A transport over Kafka's topics."""

    Channel = Channel

    default_port = DEFAULT_PORT
    # Looking waits for a message itself.
    polling_interval = 0.1

    driver_type = "kafka"
    driver_name = "confluentkafka"

    connection_errors = (*virtual.Transport.connection_errors, NoBrokersAvailable)
    recoverable_connection_errors = (NoBrokersAvailable,)

    #: The admin client, once connected.
    admin: Any = None

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            ImportError: confluent-kafka is not installed.
            NoBrokersAvailable: no broker answers.
        """
        if confluent_kafka is None:
            raise missing("confluentkafka", "confluent-kafka", "confluentkafka")
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels."""
        try:
            super().close_connection(connection)
        finally:
            self.admin = None

    def driver_version(self) -> str:
        """Version of confluent-kafka."""
        return confluent_kafka.__version__ if confluent_kafka else "N/A"

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        return uri if include_password else maybe_sanitize_url(uri, mask=mask)
