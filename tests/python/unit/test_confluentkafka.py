"""The transport over Kafka, on a double of confluent-kafka."""

from __future__ import annotations

import logging
import os
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Consumer, Exchange, Queue
from kombu_rs.exceptions import ChannelError


class KafkaException(Exception):
    pass


class Error:
    """What the library calls ``KafkaError``."""

    UNKNOWN_TOPIC_OR_PART, TOPIC_ALREADY_EXISTS, TOPIC_AUTHORIZATION_FAILED = 3, 36, 29
    _PARTITION_EOF, _ALL_BROKERS_DOWN, _TRANSPORT, _MAX_POLL_EXCEEDED = -191, -187, -195, -147

    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


class Place:
    """What the library calls ``TopicPartition``."""

    def __init__(self, topic, partition, offset=-1001):
        self.topic, self.partition, self.offset = topic, partition, offset


class Record:
    def __init__(self, topic, partition, offset, value, error=None):
        self._fields = {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "value": value,
            "error": error,
        }

    def __getattr__(self, name):
        return lambda: self._fields[name]


class Cluster:
    """Topics in memory, of one partition unless made with more; and each group's offsets."""

    def __init__(self):
        self.topics, self.committed, self.new, self.configs = {}, {}, [], []
        self.up, self.refuse, self.error = True, None, None
        self.consumers = []

    def partitions(self, topic):
        return self.topics.setdefault(topic, [[]])


class Admin:
    def __init__(self, cluster, config):
        self.cluster = cluster
        cluster.configs.append(("admin", config))

    def list_topics(self, timeout):
        if not self.cluster.up:
            raise KafkaException(Error(Error._TRANSPORT))
        return SimpleNamespace(topics=dict(self.cluster.topics))

    def _future(self, error=None):
        def result():
            if error is not None:
                raise KafkaException(Error(error))

        return {"topic": SimpleNamespace(result=result)}

    def create_topics(self, topics, request_timeout):
        (new,) = topics
        self.cluster.new.append(new)
        if self.cluster.refuse is not None:
            return self._future(self.cluster.refuse)
        self.cluster.topics[new.topic] = [[] for _ in range(new.num_partitions)]
        return self._future()

    def delete_topics(self, topics, request_timeout):
        (topic,) = topics
        if self.cluster.refuse is not None:
            return self._future(self.cluster.refuse)
        if self.cluster.topics.pop(topic, None) is None:
            return self._future(Error.UNKNOWN_TOPIC_OR_PART)
        return self._future()


class Producer:
    def __init__(self, cluster, config):
        self.cluster, self.pending = cluster, []
        cluster.configs.append(("producer", config))

    def produce(self, topic, value, on_delivery):
        self.pending.append((topic, value, on_delivery))

    def flush(self):
        for topic, value, on_delivery in self.pending:
            if self.cluster.error is None:
                min(self.cluster.partitions(topic), key=len).append(value)
            on_delivery(self.cluster.error, None)
        self.pending.clear()


class KafkaConsumer:
    def __init__(self, cluster, config):
        self.cluster, self.config = cluster, config
        self.group, self.stored, self.waits, self.closed = config["group.id"], {}, [], False
        cluster.configs.append(("consumer", config))
        cluster.consumers.append(self)
        assert config["enable.auto.offset.store"] is False

    def subscribe(self, topics):
        (self.topic,) = topics
        self.positions = {}

    def assignment(self):
        return [Place(self.topic, number) for number in range(len(self.partitions))]

    @property
    def partitions(self):
        return self.cluster.partitions(self.topic)

    def position(self, number):
        begin = self.cluster.committed.get((self.group, number), 0)
        return self.positions.setdefault(number, begin)

    def poll(self, timeout):
        self.waits.append(timeout)
        if self.cluster.error is not None:
            return Record(self.topic, 0, 0, None, self.cluster.error)
        for number, values in enumerate(self.partitions):
            offset = self.position(number)
            if offset < len(values):
                self.positions[number] = offset + 1
                return Record(self.topic, number, offset, values[offset])
        return None

    def seek(self, place):
        self.positions[place.partition] = place.offset

    def store_offsets(self, message):
        if self.closed:
            raise KafkaException("Erroneous state")
        self.stored[message.partition()] = message.offset() + 1

    def commit(self):
        for number, offset in self.stored.items():
            self.cluster.committed[self.group, number] = offset

    def get_watermark_offsets(self, place):
        return 0, len(self.partitions[place.partition])

    def committed(self, places):
        (place,) = places
        offset = self.cluster.committed.get((self.group, place.partition), -1001)
        return [Place(place.topic, place.partition, offset)]

    def close(self):
        self.closed = True


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def module(load, cluster):
    kafka, admin = ModuleType("confluent_kafka"), ModuleType("confluent_kafka.admin")
    kafka.__version__ = "9.9"
    kafka.KafkaError, kafka.KafkaException, kafka.TopicPartition = Error, KafkaException, Place
    kafka.Producer = lambda config: Producer(cluster, config)
    kafka.Consumer = lambda config: KafkaConsumer(cluster, config)
    admin.AdminClient = lambda config: Admin(cluster, config)
    admin.NewTopic = lambda topic, **options: SimpleNamespace(topic=topic, **options)
    doubles = {"confluent_kafka": kafka, "confluent_kafka.admin": admin}
    return load("kombu_rs.transport.confluentkafka", doubles)


@pytest.fixture
def connect(module):
    opened = []

    def connect(url="confluentkafka://h:1", options=None, **settings):
        options = {"wait_time_seconds": 5, "polling_interval": 0.001, **(options or {})}
        connection = Connection(
            url, transport=module.Transport, transport_options=options, **settings
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()


@pytest.fixture
def channel(connect):
    return connect().default_channel


def publish(channel, *bodies, routing_key="q"):
    for body in bodies:
        channel.Producer().publish(body, routing_key=routing_key)


def take(queue):
    message = queue.get()
    if message is not None:
        message.ack()
    return message and message.payload


def test_messages_come_in_order(channel, cluster):
    queue = Queue("q@host", Exchange("e"), "k")(channel)
    queue.declare()
    queue.declare()
    for body in "abc":
        channel.Producer().publish(body, exchange="e", routing_key="k")
    assert len(cluster.new) == 1
    assert [take(queue) for _ in range(4)] == ["a", "b", "c", None]
    assert cluster.committed == {("qhost-consumer-group", 0): 3}


def test_offsets_wait_for_what_is_before(channel, cluster):
    publish(channel, *"abcd")
    queue = Queue("q")(channel)
    first, second, third, fourth = (queue.get() for _ in range(4))
    third.ack()
    second.reject()
    assert not cluster.committed
    assert queue.queue_declare(passive=True).message_count == 4
    first.ack()
    assert cluster.committed == {("q-consumer-group", 0): 3}
    fourth.ack()
    assert cluster.committed == {("q-consumer-group", 0): 4}
    assert queue.queue_declare(passive=True).message_count == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_commits_nothing_for_its_parent(channel, cluster):
    publish(channel, "a")
    message = Queue("q")(channel).get()
    pid = os.fork()
    if pid == 0:
        # Not through pytest's exits.
        try:
            channel.qos.ack(message.delivery_tag)
            os._exit(0 if not cluster.committed else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    message.ack()
    assert cluster.committed == {("q-consumer-group", 0): 1}


def test_partitions_are_apart(connect, cluster):
    channel = connect(options={"num_partitions": 2}).default_channel
    queue = Queue("q")(channel)
    queue.declare()
    publish(channel, *"abcd")
    messages = {message.payload: message for message in (queue.get() for _ in range(4))}
    messages["b"].ack()
    messages["c"].ack()
    assert cluster.committed == {("q-consumer-group", 1): 1}
    messages["a"].ack()
    assert cluster.committed == {("q-consumer-group", 0): 2, ("q-consumer-group", 1): 1}


def test_what_was_not_acknowledged_comes_again_to_others(connect, cluster):
    connection = connect()
    channel = connection.channel()
    publish(channel, *"abc")
    queue = Queue("q")(channel)
    queue.get().ack()
    queue.get()
    queue.get()
    channel.close()
    assert all(consumer.closed for consumer in cluster.consumers)
    other = Queue("q")(connection.default_channel)
    assert [take(other) for _ in range(3)] == ["b", "c", None]
    assert len(cluster.partitions("q")[0]) == 3


def test_requeue_of_the_last_goes_back(channel, cluster):
    publish(channel, *"ab")
    queue = Queue("q")(channel)
    queue.get().requeue()
    assert [take(queue) for _ in range(3)] == ["a", "b", None]
    assert len(cluster.partitions("q")[0]) == 2


def test_requeue_of_another_writes_it_again(channel, cluster):
    publish(channel, *"ab")
    queue = Queue("q")(channel)
    first, second = queue.get(), queue.get()
    first.requeue()
    assert cluster.committed == {("q-consumer-group", 0): 1}
    second.ack()
    assert [take(queue) for _ in range(2)] == ["a", None]
    assert cluster.committed == {("q-consumer-group", 0): 3}


def test_recover_puts_all_back(channel):
    publish(channel, *"abc")
    queue = Queue("q")(channel)
    for _ in range(3):
        queue.get()
    channel.basic_recover(requeue=True)
    assert sorted(take(queue) for _ in range(3)) == ["a", "b", "c"]
    assert take(queue) is None
    assert channel.qos.can_consume_max_estimate() is None


def test_a_message_that_was_written_twice(channel, cluster):
    publish(channel, "a", "b")
    values = cluster.partitions("q")[0]
    values.insert(1, values[0])
    queue = Queue("q")(channel)
    messages = [queue.get() for _ in range(3)]
    for message in messages[1:]:
        message.ack()
    assert cluster.committed == {("q-consumer-group", 0): 3}


def test_a_partition_that_was_away_begins_anew(channel, cluster):
    publish(channel, *"abc")
    queue = Queue("q")(channel)
    old = [queue.get(), queue.get()]
    (consumer,) = cluster.consumers
    consumer.positions.clear()
    new = [queue.get() for _ in range(3)]
    old[0].ack()
    assert cluster.committed == {("q-consumer-group", 0): 1}
    for message in new[1:]:
        message.ack()
    assert cluster.committed == {("q-consumer-group", 0): 3}


def test_acknowledging_for_a_group_that_has_gone_on(channel, cluster, caplog):
    publish(channel, "a")
    message = Queue("q")(channel).get()
    cluster.consumers[0].closed = True
    with caplog.at_level(logging.WARNING):
        message.ack()
    assert "cannot acknowledge messages of the topic 'q'" in caplog.text
    assert not cluster.committed


def test_no_ack_acknowledges_at_once(connect, cluster):
    connection = connect()
    channel = connection.default_channel
    publish(channel, *"ab")
    assert Queue("q")(channel).get(no_ack=True).payload == "a"
    assert cluster.committed == {("q-consumer-group", 0): 1}
    got = []
    with Consumer(channel, [Queue("q")], no_ack=True, callbacks=[lambda b, m: got.append(b)]):
        connection.drain_events(timeout=1)
    assert got == ["b"]
    assert cluster.committed == {("q-consumer-group", 0): 2}
    assert not channel.qos._delivered


def test_prefetch_counts_what_is_not_acknowledged(connect):
    connection = connect()
    channel = connection.default_channel
    publish(channel, *"ab")
    got = []
    with Consumer(channel, [Queue("q")], callbacks=[lambda b, m: got.append(m)]) as consumer:
        consumer.qos(prefetch_count=1)
        connection.drain_events(timeout=1)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
        got[0].ack()
        connection.drain_events(timeout=1)
    assert [message.payload for message in got] == ["a", "b"]


def test_how_long_it_waits(connect, cluster):
    connection = connect()
    channel = connection.default_channel

    def drain(timeout):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=timeout)

    with Consumer(channel, [Queue("a")], callbacks=[print]):
        # Joining the group takes its time, once.
        drain(0.001)
        drain(0.002)
        (first,) = cluster.consumers
        assert first.waits[0] == 5
        assert set(first.waits[1:]) == {0.001, 0.002}
        with Consumer(channel, [Queue("b")], callbacks=[print]):
            drain(0.5)
    second = cluster.consumers[1]
    assert second.waits[0] == 5
    assert set(second.waits[1:]) == {0.1}


def test_declaring_and_deleting(channel, cluster, caplog):
    with pytest.raises(ChannelError, match="no queue 'q'"):
        channel.queue_declare("q", passive=True)
    cluster.refuse = Error.TOPIC_AUTHORIZATION_FAILED
    with caplog.at_level(logging.WARNING):
        channel.queue_declare("q")
    assert "cannot create the topic 'q'" in caplog.text
    cluster.refuse = Error.TOPIC_ALREADY_EXISTS
    caplog.clear()
    channel.queue_declare("q")
    assert not caplog.text
    cluster.refuse = None
    channel.queue_declare("q")
    publish(channel, "x")
    Queue("q")(channel).get()
    channel.queue_delete("q", if_empty=True)
    assert "q" in cluster.topics
    channel.queue_delete("q")
    assert "q" not in cluster.topics
    assert cluster.consumers[0].closed
    channel.queue_delete("q")
    cluster.refuse = Error.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException):
        channel.queue_delete("q")


def test_topics_are_made_as_the_options_say(connect, cluster):
    options = {"num_partitions": 3, "replication_factor": 2, "topic_config": {"a": "b"}}
    connect(options=options).default_channel.queue_declare("q")
    (new,) = cluster.new
    assert vars(new) == {
        "topic": "q",
        "num_partitions": 3,
        "replication_factor": 2,
        "config": {"a": "b"},
    }


def test_failures_are_errors(channel, cluster):
    queue = Queue("q")(channel)
    cluster.error = Error(Error.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        publish(channel, "x")
    with pytest.raises(KafkaException):
        queue.get()
    cluster.error = Error(Error._ALL_BROKERS_DOWN)
    assert queue.get() is None
    with pytest.raises(NotImplementedError, match="'q' cannot be purged"):
        queue.purge()


COMMON = {"bootstrap.servers": "h:1"}


@pytest.mark.parametrize(
    ("url", "settings", "options", "expected"),
    [
        ("confluentkafka://", {}, {}, {"bootstrap.servers": "localhost:9092"}),
        (
            "confluentkafka://me:secret@h:1",
            {},
            {"security_protocol": "sasl_plaintext", "sasl_mechanism": "PLAIN"},
            {
                **COMMON,
                "security.protocol": "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "me",
                "sasl.password": "secret",
            },
        ),
        (
            "confluentkafka://h:1",
            {"ssl": {"ca_certs": "ca", "certfile": "crt", "keyfile": None}},
            {},
            {
                **COMMON,
                "security.protocol": "ssl",
                "ssl.ca.location": "ca",
                "ssl.certificate.location": "crt",
            },
        ),
        (
            "confluentkafka://me:secret@h:1",
            {"ssl": True},
            {"kafka_common_config": {"sasl.mechanism": "X"}},
            {
                **COMMON,
                "security.protocol": "sasl_ssl",
                "sasl.username": "me",
                "sasl.password": "secret",
                "sasl.mechanism": "X",
            },
        ),
    ],
)
def test_the_clients_get_the_urls_parts(connect, cluster, url, settings, options, expected):
    own = {f"kafka_{kind}_config": {kind: 1} for kind in ("admin", "producer", "consumer")}
    connection = connect(url, options={**options, **own}, **settings)
    publish(connection.default_channel, "x")
    take(Queue("q")(connection.default_channel))
    connection.channel()
    consuming = {
        "group.id": "q-consumer-group",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
    }
    assert cluster.configs == [
        ("admin", {**expected, "admin": 1}),
        ("producer", {**expected, "producer": 1}),
        ("consumer", {**expected, **consuming, "consumer": 1}),
    ]
    assert "secret" not in repr(connection)


def test_credentials_that_are_not_used(connect, caplog):
    with caplog.at_level(logging.WARNING):
        connect("confluentkafka://me:secret@h:1").connect()
    assert "'security_protocol'" in caplog.text
    assert "secret" not in caplog.text


def test_a_broker_that_does_not_answer(connect, cluster, module):
    cluster.up = False
    connection = connect()
    with pytest.raises(module.NoBrokersAvailable):
        connection.transport.establish_connection()
    assert module.NoBrokersAvailable in connection.connection_errors
    assert connection.recoverable_connection_errors[0] is module.NoBrokersAvailable


def test_as_uri(connect):
    transport = connect().transport
    assert "secret" not in transport.as_uri("confluentkafka://me:secret@h:1/")
    assert transport.as_uri("kafka://me:secret@h", include_password=True) == "kafka://me:secret@h"
    assert transport.driver_version() == "9.9"


def test_without_confluent_kafka(load):
    module = load("kombu_rs.transport.confluentkafka", {"confluent_kafka": None})
    connection = Connection("confluentkafka://h", transport=module.Transport)
    assert repr(connection)
    with pytest.raises(ImportError, match=r"pip install 'kombu-rs\[confluentkafka\]'"):
        connection.connect()
