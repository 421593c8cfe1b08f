"""Azure Service Bus, over a double of the client library."""

from __future__ import annotations

import datetime
import enum
from collections import defaultdict, deque
from types import SimpleNamespace

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.transport import azureservicebus

URL = "azureservicebus://policy:se/cr:et=@name"

exchange = Exchange("orders")


class Mode(enum.Enum):
    PEEK_LOCK = 1
    RECEIVE_AND_DELETE = 2


class ResourceExistsError(Exception):
    pass


class ResourceNotFoundError(Exception):
    pass


class MessageAlreadySettled(Exception):
    pass


class MessageLockLostError(Exception):
    pass


class ConnectionLost(Exception):
    pass


class Busy(Exception):
    pass


class Received:
    def __init__(self, body):
        # As the client library has it: in pieces.
        self.body = [body[:5].encode(), body[5:].encode()]
        self._settled = self._lock_expired = False


class Namespace:
    """A namespace: its two clients, and what is in its queues."""

    def __init__(self):
        self.queues = {}
        self.locked = defaultdict(list)
        self.dead = defaultdict(list)
        self.opened = []  # ``(client, arguments)``
        self.made = {}  # options of queues
        self.waits = []
        self.live = 0  # senders, receivers and clients that are not closed
        self.sends = deque()  # errors of the next sends
        self.receives = deque()

    def client(self, kind):
        def opened(*args, **options):
            self.opened.append((kind, args, options))
            self.live += 1
            return self

        opened.from_connection_string = opened
        return opened

    def close(self):
        self.live -= 1

    def create_queue(self, queue_name, lock_duration):
        if queue_name in self.queues:
            raise ResourceExistsError
        self.queues[queue_name] = deque()
        self.made[queue_name] = lock_duration

    def delete_queue(self, name):
        if self.queues.pop(name, None) is None:
            raise ResourceNotFoundError

    def get_queue_runtime_properties(self, name):
        return SimpleNamespace(total_message_count=len(self.queues[name]))

    def get_queue_sender(self, name, keep_alive):
        return Sender(self, name)

    def get_queue_receiver(self, queue_name, receive_mode, keep_alive):
        return Receiver(self, queue_name, receive_mode)


class Link:
    def __init__(self, namespace, name, mode=None):
        self.namespace, self.name, self.mode = namespace, name, mode
        self._running = False
        namespace.live += 1

    def close(self):
        self.namespace.live -= 1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def _open_with_retry(self):
        self._running = True


class Sender(Link):
    def send_messages(self, message):
        if self.namespace.sends:
            raise self.namespace.sends.popleft()
        self.namespace.queues[self.name].append(message)


class Receiver(Link):
    def receive_messages(self, max_message_count, max_wait_time):
        self.namespace.waits.append(max_wait_time)
        if self.namespace.receives:
            raise self.namespace.receives.popleft()
        self._running = True
        queue = self.namespace.queues[self.name]
        received = [Received(queue.popleft()) for _ in range(min(max_message_count, len(queue)))]
        if self.mode is Mode.PEEK_LOCK:
            self.namespace.locked[self.name] += received
        return received

    def _settle(self, message):
        if not self._running:
            raise ValueError("not open")
        if message._settled:
            raise MessageAlreadySettled
        if message not in self.namespace.locked[self.name]:
            raise MessageLockLostError
        self.namespace.locked[self.name].remove(message)
        message._settled = True
        return b"".join(message.body).decode()

    def complete_message(self, message):
        self._settle(message)

    def abandon_message(self, message):
        self.namespace.queues[self.name].appendleft(self._settle(message))

    def dead_letter_message(self, message, reason):
        self.namespace.dead[self.name].append((self._settle(message), reason))


class Renewer:
    def __init__(self, max_lock_renewal_duration):
        self.duration = max_lock_renewal_duration
        self.registered = []
        self.closed = False

    def register(self, receiver, message, on_lock_renew_failure):
        assert receiver._running
        self.registered.append((receiver, message, on_lock_renew_failure))

    def close(self):
        self.closed = True


@pytest.fixture
def namespace(monkeypatch):
    namespace = Namespace()
    for name, value in {
        "ServiceBusClient": namespace.client("messages"),
        "ServiceBusAdministrationClient": namespace.client("queues"),
        "ServiceBusMessage": str,
        "ServiceBusReceiveMode": Mode,
        "AutoLockRenewer": Renewer,
        "ResourceExistsError": ResourceExistsError,
        "ResourceNotFoundError": ResourceNotFoundError,
        "MessageAlreadySettled": MessageAlreadySettled,
        "MessageLockLostError": MessageLockLostError,
        "_CONNECTION_LOST_ERRORS": (ConnectionLost,),
        "_TRANSIENT_ERRORS": (ConnectionLost, Busy),
    }.items():
        monkeypatch.setattr(azureservicebus, name, value, raising=False)
    return namespace


def connect(**options):
    return Connection(URL, transport_options={"polling_interval": 0.01, **options})


@pytest.fixture
def connection(namespace):
    with connect() as connection:
        yield connection
    assert namespace.live == 0


@pytest.fixture
def queue(connection):
    queue = Queue("jobs", exchange, "new")(connection.channel())
    queue.declare()
    return queue


def publish(queue, *bodies):
    for body in bodies:
        Producer(queue.channel).publish(body, exchange=exchange, routing_key="new")


def test_messages_come_in_order_and_are_completed(namespace, queue):
    assert queue.get() is None
    publish(queue, *range(5))
    assert queue.channel._size("jobs") == 5
    messages = [queue.get() for _ in range(5)]
    assert [message.payload for message in messages] == list(range(5))
    assert len(namespace.locked["jobs"]) == 5
    messages[0].ack()
    queue.channel.basic_ack(messages[4].delivery_tag, multiple=True)
    assert not namespace.locked["jobs"]
    assert queue.get() is None


def test_requeue_comes_again_and_reject_is_a_dead_letter(namespace, queue):
    publish(queue, "x", "y")
    queue.get().requeue()
    message = queue.get()
    assert message.payload == "x"
    message.reject()
    assert [reason for _, reason in namespace.dead["jobs"]] == ["rejected"]
    assert queue.get().payload == "y"


def test_a_closed_channel_gives_back_what_it_had(namespace, queue):
    publish(queue, "x")
    queue.get()
    queue.channel.close()
    assert len(namespace.queues["jobs"]) == 1
    assert not namespace.locked["jobs"]


def test_without_acknowledgements_nothing_is_locked(namespace, connection, queue):
    bodies = []
    publish(queue, "x", "y")
    consumer = Consumer(connection, [queue], callbacks=[lambda b, m: bodies.append(b)], no_ack=True)
    with consumer:
        connection.drain_events(timeout=5)
    assert bodies == ["x"]
    assert queue.get(no_ack=True).payload == "y"
    assert not namespace.locked["jobs"]
    # One that came when the consumer had gone has left the broker: it is sent again.
    publish(queue, "z")
    consumer.consume()
    payload = consumer.channel._get("jobs")
    consumer.cancel()
    connection.transport._deliver(payload, "jobs")
    assert queue.get().payload == "z"


def test_waits_as_long_as_it_may(namespace):
    with connect(wait_time_seconds=2) as connection:
        with Consumer(connection, [Queue("jobs")], callbacks=[print]):
            namespace.waits.clear()
            for timeout in (0.5, 0.001):
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=timeout)
        assert namespace.waits[0] == 0.5
        assert min(namespace.waits) == 0.1
        connection.channel().basic_get("jobs")
        assert namespace.waits[-1] == 2


def test_a_lost_connection_while_sending(namespace, queue):
    namespace.sends.append(ConnectionLost())
    publish(queue, "x")
    assert [queue.get().payload, queue.get()] == ["x", None]
    namespace.sends += [ConnectionLost(), ConnectionLost()]
    with pytest.raises(ConnectionLost):
        publish(queue, "y")
    # The broker may have it: sending it again is for who knows whether it may come twice.
    namespace.sends.append(Busy())
    with pytest.raises(Busy):
        publish(queue, "z")
    assert not namespace.queues["jobs"]
    publish(queue, "fine")
    assert queue.get().payload == "fine"


def test_a_lost_connection_while_receiving(namespace, queue):
    publish(queue, "x", "y")
    message = queue.get()
    namespace.receives.append(ConnectionLost())
    assert queue.get() is None
    # Settled by a receiver that has not received anything.
    message.ack()
    assert not namespace.locked["jobs"]
    assert queue.get().payload == "y"


def test_a_lock_that_was_lost_is_logged(namespace, queue, caplog):
    publish(queue, "x")
    message = queue.get()
    namespace.locked["jobs"].clear()
    message.ack()
    assert "MessageLockLostError" in caplog.text
    assert "peek_lock_seconds" in caplog.text
    assert not queue.channel.qos._in_use()


def test_locks_are_renewed(namespace):
    with connect(use_lock_renewal=True, max_lock_renewal_duration="90") as connection:
        queue = Queue("jobs", exchange, "new")(connection.channel())
        queue.declare()
        publish(queue, "x")
        queue.get()
        renewer = connection.transport._renewer
        assert renewer.duration == 90
        ((receiver, message, failed),) = renewer.registered
        # Not the one that waits for messages.
        assert receiver is not queue.channel._get_asb_receiver("jobs").receiver
        for _ in range(5):
            failed(message, OSError("down"))
        assert len(renewer.registered) == 4
        message._lock_expired, message._kombu_renew_retries = True, 0
        failed(message, OSError("down"))
        assert len(renewer.registered) == 4
    assert renewer.closed


def test_queues(namespace):
    with connect(queue_name_prefix="app.", peek_lock_seconds=900) as connection:
        channel = connection.channel()
        for name in ("a:b", "a-b.c_d"):
            channel.queue_declare(name)
            channel.queue_declare(name)
        assert sorted(namespace.queues) == ["app.a-b.c_d", "app.a_b"]
        assert namespace.made["app.a_b"] == datetime.timedelta(seconds=300)
        channel._put("a:b", {})
        assert channel._purge("a:b") == 1
        channel._delete("a:b")
        channel._delete("a:b")
        assert list(namespace.queues) == ["app.a-b.c_d"]
    with connect() as connection:
        connection.channel().queue_declare("app.a-b.c_d")
    assert namespace.live == 0


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_message_of_somebody_else_is_an_error(namespace, queue, text):
    namespace.queues["jobs"].append(text)
    with pytest.raises(ValueError, match="'jobs'"):
        queue.get()


def test_clients(namespace, monkeypatch):
    with connect(retry_total=1, retry_backoff_factor=0.5, retry_backoff_max=9) as connection:
        first, second = connection.channel(), connection.channel()
        assert first.queue_service is second.queue_service
        text = (
            "Endpoint=sb://name.servicebus.windows.net;SharedAccessKeyName=policy;"
            "SharedAccessKey=se/cr:et="
        )
        options = {"retry_total": 1, "retry_backoff_factor": 0.5, "retry_backoff_max": 9}
        assert namespace.opened == [("messages", (text,), options)]
        assert second.queue_mgmt_service
        assert namespace.opened[1:] == [("queues", (text,), {})]
    namespace.opened.clear()
    monkeypatch.setattr(azureservicebus, "make_identity", lambda transport, name: (name,))
    with Connection("azureservicebus://managedidentitycredential@name") as connection:
        assert connection.channel().queue_mgmt_service
    credential = ("ManagedIdentityCredential",)
    where = "name.servicebus.windows.net"
    assert namespace.opened == [("queues", (where, credential), {})]


@pytest.mark.parametrize(
    "option",
    [
        {"wait_time_seconds": 0},
        {"peek_lock_seconds": "long"},
        {"uamqp_keep_alive_interval": -1},
        {"retry_total": True},
        {"max_lock_renewal_duration": float("nan")},
    ],
)
def test_a_wrong_option_is_named(namespace, option):
    (name,) = option
    with connect(**option) as connection, pytest.raises(ValueError, match=name):
        getattr(connection.channel(), name)


def test_urls():
    transport = azureservicebus.Transport
    host = "name.servicebus.windows.net"
    assert transport.parse_uri(URL) == (host, "policy:se/cr:et=")
    assert transport.as_uri(URL) == f"azureservicebus://policy:**@{host}"
    assert transport.as_uri(URL, include_password=True) == URL + ".servicebus.windows.net"
    assert transport.as_uri("azureservicebus://defaultazurecredential@name/") == (
        f"azureservicebus://DefaultAzureCredential@{host}"
    )
    for url in ("azureservicebus://", "azureservicebus://a:b", "azureservicebus://a:b@", "x@y"):
        with pytest.raises(ValueError, match="SAS policy name"):
            transport.parse_uri(url)


def test_the_key_is_not_shown(namespace, connection):
    connection.connect()
    for text in (repr(connection), connection.as_uri()):
        assert "se/cr" not in text


def test_without_the_client_library(monkeypatch):
    monkeypatch.setattr(azureservicebus, "ServiceBusClient", None)
    with pytest.raises(ImportError, match=r"azure-servicebus.*kombu-rs\[azureservicebus\]"):
        Connection(URL).connect()
