"""Google Cloud Pub/Sub, over a double of the client library that filters, as emulators do not."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.exceptions import ChannelError
from kombu_rs.transport import gcpubsub
from kombu_rs.transport.gcpubsub import deliveries, topology
from kombu_rs.transport.gcpubsub.topology import filter_for, key_of_filter

URL = "gcpubsub://projects/p"

exchange = Exchange("orders")
news = Exchange("news", "fanout")


class GoogleAPICallError(Exception):
    pass


class AlreadyExists(GoogleAPICallError):
    pass


class NotFound(GoogleAPICallError):
    pass


class PermissionDenied(GoogleAPICallError):
    pass


class DeadlineExceeded(GoogleAPICallError):
    pass


class Retry:
    def __init__(self, timeout):
        self.timeout = timeout


class Project:
    """What is in the project, and its two clients."""

    def __init__(self):
        self.topics = {}
        self.subscriptions = {}
        self.ready = threading.Condition()
        self.queues = defaultdict(deque)
        self.leased = {}  # subscription and message, by acknowledgement id
        self.extended = []  # requests
        self.updates = []
        self.live = 0
        self.fails = {}  # errors by method

    def client(self, **options):
        self.live += 1
        return Client(self)


class Client:
    def __init__(self, project):
        self.project = project
        self.transport = self  # has a method close as well
        self.closed = False

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if callable(found) and name in self.project.fails:
            raise self.project.fails[name]
        return found

    def close(self):
        self.closed = True
        self.project.live -= 1
        with self.project.ready:
            self.project.ready.notify_all()

    # Topics and subscriptions

    @staticmethod
    def topic_path(project, name):
        return f"projects/{project}/topics/{name}"

    @staticmethod
    def subscription_path(project, name):
        return f"projects/{project}/subscriptions/{name}"

    def get_topic(self, request):
        if request["topic"] not in self.project.topics:
            raise NotFound

    def create_topic(self, request):
        self.project.topics[request["name"]] = request

    def create_subscription(self, request):
        assert request["topic"] in self.project.topics
        if self.project.subscriptions.setdefault(request["name"], request) is not request:
            raise AlreadyExists

    def update_subscription(self, request):
        self.project.updates.append(request["update_mask"])
        if "filter" in request["update_mask"]:
            raise GoogleAPICallError("the filter cannot change")

    def get_subscription(self, request):
        try:
            found = self.project.subscriptions[request["subscription"]]
        except KeyError:
            raise NotFound from None
        return SimpleNamespace(topic=found["topic"], filter=found.get("filter", ""))

    def delete_subscription(self, request):
        if self.project.subscriptions.pop(request["subscription"], None) is None:
            raise NotFound

    def seek(self, request):
        assert request["time"].tzinfo is not None
        self.project.queues.pop(request["subscription"], None)

    # Messages

    def publish(self, topic, data, retry, **attributes):
        assert retry.timeout > 0
        assert topic in self.project.topics
        with self.project.ready:
            for name, subscription in self.project.subscriptions.items():
                key = key_of_filter(subscription.get("filter", ""))
                if subscription["topic"] == topic and key in (None, attributes.get("routing_key")):
                    self.project.queues[name].append(data)
            self.project.ready.notify_all()
        sent = Future()
        sent.set_result("id")
        return sent

    def pull(self, request, retry, timeout):
        name = request["subscription"]
        received = []
        with self.project.ready:
            self.project.ready.wait_for(lambda: self.closed or self.project.queues[name], timeout)
            if self.closed:
                raise ValueError("closed")
            queue = self.project.queues[name]
            while queue and len(received) < request["max_messages"]:
                ack_id = f"a{len(self.project.leased)}-{time.monotonic_ns()}"
                data = queue.popleft()
                self.project.leased[ack_id] = (name, data)
                message = SimpleNamespace(data=data, message_id="m")
                received.append(SimpleNamespace(ack_id=ack_id, message=message))
        if not received:
            raise DeadlineExceeded
        return SimpleNamespace(received_messages=received)

    def acknowledge(self, request, retry):
        for ack_id in request["ack_ids"]:
            del self.project.leased[ack_id]

    def modify_ack_deadline(self, request):
        if request["ack_deadline_seconds"]:
            self.project.extended.append(request)
            return
        with self.project.ready:
            for ack_id in request["ack_ids"]:
                name, data = self.project.leased.pop(ack_id)
                self.project.queues[name].appendleft(data)
            self.project.ready.notify_all()


@pytest.fixture
def project(monkeypatch):
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    project = Project()
    errors = {"GoogleAPICallError": GoogleAPICallError, "AlreadyExists": AlreadyExists}
    for module, names in {
        gcpubsub: {
            "PublisherClient": project.client,
            "SubscriberClient": project.client,
            "BatchSettings": dict,
            "PermissionDenied": PermissionDenied,
            "monitoring_v3": SimpleNamespace(MetricServiceClient=project.client),
            "query": SimpleNamespace(Query=lambda *args, **options: Sizes(project)),
            "library_version": "2.0",
        },
        deliveries: {"DeadlineExceeded": DeadlineExceeded, "Retry": Retry},
        topology: {
            **errors,
            "NotFound": NotFound,
            "FieldMask": lambda paths: paths,
            "Subscription": dict,
        },
    }.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value, raising=False)
    return project


class Sizes:
    def __init__(self, project):
        self.project = project

    def select_resources(self, subscription_id):
        if "select_resources" in self.project.fails:
            raise self.project.fails["select_resources"]
        size = len(self.project.queues[f"projects/p/subscriptions/{subscription_id}"])
        yield SimpleNamespace(points=[SimpleNamespace(value=SimpleNamespace(int64_value=size))])


def connect(**options):
    options = {"wait_time_seconds": 0.05, "polling_interval": 0.01, **options}
    return Connection(URL, transport_options=options)


@pytest.fixture
def connection(project):
    with connect() as connection:
        yield connection
    assert project.live == 0


@pytest.fixture
def queue(connection):
    queue = Queue("jobs", exchange, "new")(connection.channel())
    queue.declare()
    return queue


def publish(channel, *bodies, exchange=exchange, routing_key="new", **properties):
    producer = Producer(channel, auto_declare=False)
    for body in bodies:
        producer.publish(body, exchange=exchange, routing_key=routing_key, **properties)


def test_messages_come_in_order_and_are_acknowledged(project, queue):
    assert queue.get() is None
    publish(queue.channel, *range(5))
    assert queue.channel._size("jobs") == 5
    messages = [queue.get() for _ in range(5)]
    assert [message.payload for message in messages] == list(range(5))
    assert len(project.leased) == 5
    messages[0].ack()
    queue.channel.basic_ack(messages[4].delivery_tag, multiple=True)
    assert not project.leased
    assert queue.get() is None


def test_the_layout_is_kombus(project, queue):
    assert project.topics["projects/p/topics/orders"]["message_retention_duration"].days == 1
    (subscription,) = project.subscriptions.values()
    assert subscription["name"] == "projects/p/subscriptions/kombu-jobs"
    assert subscription["topic"] == "projects/p/topics/orders"
    assert subscription["filter"] == 'attributes.routing_key="new"'
    assert subscription["ack_deadline_seconds"] == 240
    assert subscription["enable_exactly_once_delivery"] is False
    publish(queue.channel, {"a": 1})
    message = json.loads(project.queues[subscription["name"]][0])
    assert message["properties"]["delivery_info"] == {"exchange": "orders", "routing_key": "new"}
    assert message["properties"]["body_encoding"] == "base64"
    assert queue.channel.entity_name("a.b:c_d-e") == "kombu-a-b_c_d-e"


def test_requeue_comes_again_and_reject_drops(project, queue):
    publish(queue.channel, "x", "y")
    first = queue.get()
    first.requeue()
    again = queue.get()
    assert again.payload == "x"
    assert again.delivery_tag != first.delivery_tag
    again.reject()
    assert not project.leased
    assert queue.get().payload == "y"


def test_consumer(project, connection, queue):
    bodies = []

    def on_message(body, message):
        bodies.append(body)
        message.ack()

    with Consumer(connection, [queue], callbacks=[on_message]):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.02)
        publish(queue.channel, *range(40))
        while len(bodies) < 40:
            connection.drain_events(timeout=5)
    assert bodies == list(range(40))
    assert not project.leased


def test_takes_no_more_than_it_may(project, connection, queue):
    publish(queue.channel, *range(5))
    messages = []
    with Consumer(connection, [queue], on_message=messages.append) as consumer:
        consumer.qos(prefetch_count=2)
        connection.drain_events(timeout=5)
        assert len(messages) == 2
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert len(project.leased) == 2
        messages[0].ack()
        connection.drain_events(timeout=5)
        assert [message.payload for message in messages] == [0, 1, 2]


def test_what_nobody_handles_is_given_back(project, connection, queue):
    publish(queue.channel, *range(4))
    consumer = Consumer(
        connection.channel(), [queue], callbacks=[lambda body, message: consumer.cancel()]
    )
    consumer.consume()
    connection.drain_events(timeout=5)
    # The consumer ended at the first. That one is its own, the others came along.
    assert len(project.leased) == 1
    consumer.channel.close()
    assert not project.leased

    def fail(body, message):
        raise RuntimeError(body)

    with Consumer(connection, [queue], callbacks=[fail]):
        with pytest.raises(RuntimeError):
            connection.drain_events(timeout=5)
        assert len(project.leased) == 1
    connection.release()
    assert not project.leased
    assert len(project.queues["projects/p/subscriptions/kombu-jobs"]) == 4


def test_without_acknowledgements(project, connection, queue):
    bodies = []
    publish(queue.channel, "x", "y")
    publish(queue.channel, "transient", delivery_mode=1)
    on_message = [lambda body, message: bodies.append(body)]
    with Consumer(connection, [queue], callbacks=on_message, no_ack=True):
        connection.drain_events(timeout=5)
    assert bodies == ["x", "y", "transient"]
    publish(queue.channel, "z")
    assert queue.get(no_ack=True).payload == "z"
    publish(queue.channel, "transient", delivery_mode=1)
    message = queue.get()
    assert not project.leased
    # It has left the broker, so it is sent again.
    message.requeue()
    assert queue.get().payload == "transient"


def test_fanout(project, connection):
    bodies = []
    queue = Queue("screen", news)
    with Consumer(connection, [queue], callbacks=[lambda body, message: bodies.append(body)]):
        (path,) = project.subscriptions
        assert path.startswith("projects/p/subscriptions/kombu-screen-")
        assert "filter" not in project.subscriptions[path]
        with connect() as other:
            publish(other, "flash", exchange=news, declare=[news])
        # Who only publishes needs no subscription.
        assert list(project.subscriptions) == [path]
        connection.drain_events(timeout=5)
    assert bodies == ["flash"]
    assert not project.leased
    connection.release()
    assert not project.subscriptions


def test_a_queue_keeps_the_key_of_its_first_binding(project, connection, queue):
    Queue("jobs", exchange, "old")(queue.channel).declare()
    Queue("twin", exchange, "new")(queue.channel).declare()
    for routing_key in ("new", "old"):
        publish(queue.channel, routing_key, routing_key=routing_key)
        # Once, although both queues get what goes to one.
        assert queue.get().payload == routing_key
        assert queue.get() is None
    # Through the default exchange as well, also from where it was not declared.
    publish(queue.channel, "direct", exchange="", routing_key="jobs")
    assert queue.get().payload == "direct"
    with connect() as other:
        publish(other, "elsewhere", exchange="", routing_key="jobs")
        assert queue.get().payload == "elsewhere"
        with pytest.raises(ChannelError, match="'none'"):
            publish(other, "x", exchange="", routing_key="none")


def test_a_key_without_a_binding_gets_a_queue_named_after_the_exchange(project, connection):
    channel = connection.channel()
    exchange(channel).declare()
    publish(channel, "x", routing_key="nobody")
    (subscription,) = project.subscriptions.values()
    assert subscription["name"] == "projects/p/subscriptions/kombu-orders"
    assert subscription["filter"] == filter_for("nobody")
    assert channel.basic_get("orders").payload == "x"


def test_a_subscription_that_is_there_is_updated(project, queue, caplog):
    with connect(ack_deadline_seconds=60) as other:
        Queue("jobs", exchange, "new")(other.channel()).declare()
    # The service refuses the first because of the filter.
    assert project.updates == [
        [
            "ack_deadline_seconds",
            "expiration_policy.ttl",
            "message_retention_duration",
            "enable_exactly_once_delivery",
            "filter",
        ],
        [
            "ack_deadline_seconds",
            "expiration_policy",
            "message_retention_duration",
            "enable_exactly_once_delivery",
        ],
    ]
    project.fails["update_subscription"] = GoogleAPICallError("no")
    with connect() as other:
        Queue("jobs", exchange, "new")(other.channel()).declare()
    assert "kombu-jobs stays as it is" in caplog.text


def test_a_binding_that_failed_is_made_the_next_time(project, connection):
    queue = Queue("jobs", exchange, "new")(connection.channel())
    project.fails["create_subscription"] = PermissionDenied("no")
    with pytest.raises(PermissionDenied):
        queue.declare()
    project.fails.clear()
    queue.declare()
    assert len(project.subscriptions) == 1
    with pytest.raises(NotImplementedError, match="topic"):
        Queue("t", Exchange("t", "topic"), "#")(connection.channel()).declare()


def test_purge_size_and_delete(project, queue, monkeypatch):
    channel = queue.channel
    publish(channel, 1, 2)
    assert channel._purge("jobs") == 2
    assert queue.get() is None
    assert channel._purge("none") is None
    assert channel._size("none") == 0
    project.fails["select_resources"] = PermissionDenied("no")
    assert channel._size("jobs") == -1
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "localhost")
    project.fails.clear()
    assert channel._size("jobs") == -1
    channel.after_reply_message_received("jobs")
    assert project.subscriptions
    channel.close()
    assert not project.subscriptions


def test_leases_are_extended(project, connection, queue, caplog):
    publish(queue.channel, *range(3))
    messages = [queue.get() for _ in range(3)]
    queue.channel.ack_modify_batch_size = 2
    queue.channel._extend_leases()
    assert [len(request["ack_ids"]) for request in project.extended] == [2, 1]
    assert project.extended[0]["ack_deadline_seconds"] == 240
    # Not again so soon, unless it failed.
    queue.channel._extend_leases()
    assert len(project.extended) == 2
    queue.channel._extend_at = 0
    project.fails["modify_ack_deadline"] = PermissionDenied("no")
    queue.channel._extend_leases()
    assert "failed to extend ack deadline" in caplog.text
    project.fails.clear()
    for message in messages:
        message.ack()
    queue.channel._extend_leases()
    assert len(project.extended) == 2


def test_the_thread_that_extends_leases(project, monkeypatch):
    monkeypatch.setattr(gcpubsub.Channel, "_min_ack_deadline", 0.02)
    with connect() as first:
        first.channel()
        extender = gcpubsub.Channel._unacked_extender
        with connect() as second:
            queue = Queue("jobs", exchange, "new")(second.channel())
            queue.declare()
            assert gcpubsub.Channel._unacked_extender is extender
            first.release()
            publish(queue.channel, "x")
            message = queue.get()
            deadline = time.monotonic() + 10
            while not project.extended:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            message.ack()
    assert not extender.is_alive()
    assert not gcpubsub.Channel._n_channels.get()


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}"])
def test_a_message_of_somebody_else(project, connection, queue, caplog, data):
    path = "projects/p/subscriptions/kombu-jobs"
    project.queues[path].append(data)
    with pytest.raises(ValueError, match="kombu-jobs"):
        queue.get()
    project.queues[path].append(data)
    publish(queue.channel, "good")
    bodies = []
    with Consumer(connection, [queue], callbacks=[lambda body, message: bodies.append(body)]):
        connection.drain_events(timeout=5)
    assert bodies == ["good"]
    assert "kombu-jobs" in caplog.text


def test_what_stock_kombu_publishes_along_is_not_believed(project, queue):
    publish(queue.channel, "x", delivery_mode=1)
    path = "projects/p/subscriptions/kombu-jobs"
    message = json.loads(project.queues[path].pop())
    message["properties"]["delivery_info"]["gcpubsub_message"] = {"ack_id": "stale"}
    project.queues[path].append(json.dumps(message).encode())
    queue.get().ack()
    assert not project.leased


def test_an_error_while_receiving_is_logged_once(project, connection, queue, caplog):
    project.fails["pull"] = PermissionDenied("not yours")
    with Consumer(connection, [queue], callbacks=[print]):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        assert caplog.text.count("not yours") == 1
        project.fails.clear()
        publish(queue.channel, "x")
        connection.drain_events(timeout=5)


def test_a_connection_can_be_opened_again(project, connection, queue):
    publish(queue.channel, "x")
    connection.release()
    assert project.live == 0
    connection.connect()
    assert queue(connection.channel()).get().payload == "x"


def test_keys_in_filters():
    for key in ("", "a.b", 'say "x"', "back\\slash", '\\"'):
        assert key_of_filter(filter_for(key)) == key
    for text in ("", 'attributes.x="y"', 'attributes.routing_key="a" OR attributes:b'):
        assert key_of_filter(text) is None


@pytest.mark.parametrize(
    "option",
    [
        {"ack_deadline_seconds": 5},
        {"wait_time_seconds": 0},
        {"retry_timeout_seconds": "long"},
        {"bulk_max_messages": 0},
        {"ack_modify_batch_size": None, "bulk_max_messages": 1001},
    ],
)
def test_a_wrong_option_is_named(project, option):
    name = list(option)[-1]
    with connect(**option) as connection, pytest.raises(ValueError, match=name):
        connection.connect()


def test_expiration(project, caplog):
    for value, seconds in (("3600", 3600), ("soon", 86400)):
        with connect(expiration_seconds=value) as connection:
            assert connection.channel().expiration_seconds == seconds
    assert "expiration_seconds" in caplog.text


def test_urls(project):
    transport = gcpubsub.Transport
    assert transport.parse_uri("gcpubsub://projects/p/") == "p"
    assert transport.as_uri(URL) == URL
    for url in ("gcpubsub://", "gcpubsub://p", "gcpubsub://projects/", "projects/p"):
        with pytest.raises(ValueError, match="gcpubsub://projects/PROJECT"):
            transport.parse_uri(url)
    with Connection("gcpubsub://") as connection, pytest.raises(ValueError, match="PROJECT"):
        connection.connect()


def test_without_the_client_library(monkeypatch):
    monkeypatch.setattr(gcpubsub, "SubscriberClient", None)
    with pytest.raises(ImportError, match=r"google-cloud-pubsub.*kombu-rs\[gcpubsub\]"):
        Connection(URL).connect()
