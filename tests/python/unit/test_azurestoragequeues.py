"""Azure Storage Queues, over a double of the client library."""

from __future__ import annotations

import sys
from collections import deque
from types import ModuleType, SimpleNamespace

import pytest

from kombu_rs import Connection, Consumer, Exchange, Producer, Queue
from kombu_rs.transport import azurestoragequeues

URL = "azurestoragequeues://secret/key==@https://account.queue.core.windows.net/"

exchange = Exchange("orders")


class ResourceExistsError(Exception):
    pass


class ResourceNotFoundError(Exception):
    pass


class Account:
    """A storage account: its client, and what is in its queues."""

    def __init__(self):
        self.queues = {}
        self.opened = []
        self.closed = 0

    def __call__(self, account_url, credential):
        self.opened.append((account_url, credential))
        return self

    def list_queues(self):
        return [{"name": name} for name in self.queues]

    def create_queue(self, name):
        if name in self.queues:
            raise ResourceExistsError
        self.queues[name] = deque()

    def delete_queue(self, name):
        if self.queues.pop(name, None) is None:
            raise ResourceNotFoundError

    def get_queue_client(self, name):
        return QueueClient(self, name)

    def close(self):
        self.closed += 1


class QueueClient:
    def __init__(self, account, name):
        self.account, self.name = account, name

    @property
    def messages(self):
        try:
            return self.account.queues[self.name]
        except KeyError:
            raise ResourceNotFoundError from None

    def send_message(self, text):
        assert isinstance(text, str)
        self.messages.append(SimpleNamespace(content=text, visible=True))

    def receive_message(self):
        for message in self.messages:
            if message.visible:
                message.visible = False
                return message
        return None

    def delete_message(self, message):
        self.messages.remove(message)

    def get_queue_properties(self):
        return SimpleNamespace(approximate_message_count=len(self.messages))

    def clear_messages(self):
        self.messages.clear()


@pytest.fixture
def account(monkeypatch):
    account = Account()
    for name, value in (
        ("QueueServiceClient", account),
        ("ResourceExistsError", ResourceExistsError),
        ("ResourceNotFoundError", ResourceNotFoundError),
    ):
        monkeypatch.setattr(azurestoragequeues, name, value, raising=False)
    return account


@pytest.fixture
def connection(account):
    with Connection(URL, transport_options={"polling_interval": 0.01}) as connection:
        yield connection


@pytest.fixture
def queue(connection):
    queue = Queue("jobs", exchange, "new")(connection.channel())
    queue.declare()
    return queue


def publish(queue, *bodies):
    for body in bodies:
        Producer(queue.channel).publish(body, exchange=exchange, routing_key="new")


def test_messages_come_in_order_and_once(account, queue):
    assert queue.get() is None
    publish(queue, *range(5))
    assert queue.channel._size("jobs") == 5
    messages = [queue.get() for _ in range(5)]
    assert [message.payload for message in messages] == list(range(5))
    for message in messages:
        message.ack()
    assert queue.get() is None
    assert not account.queues["jobs"]


def test_consumer_and_requeue(account, connection, queue):
    bodies = []

    def on_message(body, message):
        bodies.append((body, message.headers.get("redelivered")))
        if len(bodies) == 1:
            message.requeue()
        else:
            message.ack()

    with Consumer(connection, [queue], callbacks=[on_message]):
        publish(queue, "x")
        connection.drain_events(timeout=5)
        connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.02)
    assert [body for body, _ in bodies] == ["x", "x"]


def test_a_closed_channel_puts_back_what_it_had(account, queue):
    publish(queue, "x")
    assert queue.get().payload == "x"
    assert not account.queues["jobs"]
    queue.channel.close()
    assert len(account.queues["jobs"]) == 1


def test_purge_delete_and_a_queue_that_somebody_deleted(account, queue):
    publish(queue, 1, 2)
    assert queue.purge() == 2
    account.delete_queue("jobs")
    publish(queue, "again")
    assert queue.get().payload == "again"
    queue.delete()
    queue.channel._delete("jobs")
    assert "jobs" not in account.queues


def test_names(account):
    options = {"queue_name_prefix": "my.app_"}
    with Connection(URL, transport_options=options) as connection:
        channel = connection.channel()
        channel._put("some:queue", {"body": ""})
        assert list(account.queues) == ["my-app-some-queue"]
        assert channel._size("some:queue") == channel._purge("some:queue") == 1
        channel._delete("some:queue")
        assert not account.queues


def test_one_client_and_one_listing_for_a_connection(account):
    account.create_queue("jobs")
    with Connection(URL) as connection:
        first, second = connection.channel(), connection.channel()
        assert first.queue_service is second.queue_service
        account.create_queue = None  # it is known to be there
        second._put("jobs", {"body": ""})
    assert account.opened == [("https://account.queue.core.windows.net/", "secret/key==")]
    assert account.closed == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"properties": {"delivery_info": 1}}'])
def test_a_message_of_somebody_else_is_an_error_and_stays(account, queue, text):
    account.get_queue_client("jobs").send_message(text)
    with pytest.raises(ValueError, match="'jobs'"):
        queue.get()
    assert len(account.queues["jobs"]) == 1


def test_urls(monkeypatch):
    transport = azurestoragequeues.Transport
    assert transport.parse_uri(URL) == ("secret/key==", "https://account.queue.core.windows.net/")
    azurite = "http://localhost:10001/devstoreaccount1"
    assert transport.parse_uri(f"azurestoragequeues://k@{azurite}") == (
        {"account_name": "devstoreaccount1", "account_key": "k"},
        azurite,
    )
    for url in (URL, f"azurestoragequeues://k@{azurite}"):
        assert transport.as_uri(url, include_password=True) == url
        assert transport.as_uri(url) == f"azurestoragequeues://**@{url.rpartition('@')[2]}"
    for url in ("azurestoragequeues://", "azurestoragequeues://key", "azurestoragequeues://@x"):
        with pytest.raises(ValueError, match="Need a URI like"):
            transport.parse_uri(url)


def test_credentials_by_name(monkeypatch):
    url = "azurestoragequeues://defaultazurecredential@https://x"
    monkeypatch.setitem(sys.modules, "azure", None)
    with pytest.raises(ImportError, match=r"azure-identity.*kombu-rs\[azurestoragequeues\]"):
        azurestoragequeues.Transport.parse_uri(url)
    azure, identity = ModuleType("azure"), ModuleType("azure.identity")
    azure.identity = identity
    identity.DefaultAzureCredential = SimpleNamespace
    monkeypatch.setitem(sys.modules, "azure", azure)
    credential, _ = azurestoragequeues.Transport.parse_uri(url)
    assert isinstance(credential, SimpleNamespace)


def test_the_key_is_not_shown(account, connection):
    connection.connect()
    for text in (repr(connection), connection.as_uri(), str(connection.transport)):
        assert "secret" not in text


def test_without_the_client_library(monkeypatch):
    monkeypatch.setattr(azurestoragequeues, "QueueServiceClient", None)
    with pytest.raises(ImportError, match=r"azure-storage-queue.*kombu-rs\[azurestoragequeues\]"):
        Connection(URL).connect()
