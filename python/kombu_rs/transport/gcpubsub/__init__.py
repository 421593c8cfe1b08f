"""``gcpubsub://``: Google Cloud Pub/Sub.

It needs google-cloud-pubsub and google-cloud-monitoring (``pip install kombu-rs[gcpubsub]``). URLs
are ``gcpubsub://projects/PROJECT``; credentials are the application's default ones. With
``PUBSUB_EMULATOR_HOST`` in the environment it connects to an emulator.

An exchange is a topic of the same name. A queue is a subscription: the prefix and the queue's name,
with ``-`` for dots and ``_`` for other punctuation. A message is Kombu's JSON, its routing key also
the attribute ``routing_key``.

- Direct exchanges: the subscription's filter lets one routing key through. Pub/Sub can neither
  change a filter nor give a subscription a second topic, so a queue keeps its first binding:
  others work for publishers that know them, on this side.
- Fanout exchanges: each process has a subscription of its own, which is deleted with the channel.
  Its messages, and transient ones, count as acknowledged when they come.
- Topic exchanges: Pub/Sub has nothing like them.

A message that was received is leased; the lease is extended until it is acknowledged. Rejecting it
acknowledges it, requeueing it ends the lease: it comes again at once, as it does when the channel
is closed. How many messages a queue has is asked from Cloud Monitoring, whose answer is minutes
old; it is -1 where that is not allowed, and with the emulator.

Options in ``transport_options``:

================================ =================================================================
``queue_name_prefix``            put before the names of all subscriptions; default ``kombu-``
``ack_deadline_seconds``         how long a lease lasts, 10 to 600; default 240
``expiration_seconds``           a subscription that nobody used for so long is removed; messages
                                 are kept for as long; default 86400
``wait_time_seconds``            how long one request waits for messages; default 10
``retry_timeout_seconds``        how long a request is tried again; default 300
``bulk_max_messages``            how many messages one request takes at most; default 32
``enable_exactly_once_delivery`` have Pub/Sub send no message again whose lease holds; default
                                 False
``ack_modify_batch_size``        leases that one request extends at most; default 1000
================================ =================================================================
"""

from __future__ import annotations

import datetime
import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from os import getpid
from queue import Empty
from socket import gethostname
from time import monotonic, sleep
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, uuid3
from weakref import WeakSet

from ...log import get_logger
from ...utils.json import dumps
from ...utils.objects import cached_property
from .. import virtual
from .._cloud import close_quietly
from .._libraries import missing
from ..base import Implements
from .deliveries import Deliveries
from .leases import AtomicCounter, QueueDescriptor, UnackedIds
from .options import ACK_MODIFY_BATCH_SIZE as _ACK_MODIFY_BATCH_SIZE_DEFAULT  # noqa: F401 - Kombu's name
from .options import check_options
from .topology import (
    CHARS_REPLACE_TABLE,
    FANOUT_RETENTION,
    PUNCTUATIONS_TO_REPLACE,
    filter_for,
)

# Errors of the client library that mean a lost connection, and those that mean a failed operation.
_LIBRARY_CONNECTION_ERRORS: tuple[type[BaseException], ...] = ()
_LIBRARY_CHANNEL_ERRORS: tuple[type[BaseException], ...] = ()

try:
    from google.api_core.exceptions import PermissionDenied, RetryError, ServiceUnavailable
    from google.cloud import monitoring_v3
    from google.cloud.monitoring_v3 import query
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
    from google.cloud.pubsub_v1.publisher import exceptions as publisher_exceptions
    from google.cloud.pubsub_v1.subscriber import exceptions as subscriber_exceptions
    from google.cloud.pubsub_v1.types import BatchSettings
    from google.pubsub_v1.gapic_version import __version__ as library_version
except ImportError:  # the transport says so when it is used
    PublisherClient = SubscriberClient = None
else:
    _LIBRARY_CONNECTION_ERRORS = (
        publisher_exceptions.TimeoutError,
        ServiceUnavailable,
        RetryError,
    )
    _LIBRARY_CHANNEL_ERRORS = (
        publisher_exceptions.FlowControlLimitError,
        publisher_exceptions.MessageTooLargeError,
        publisher_exceptions.PublishError,
        publisher_exceptions.TimeoutError,
        publisher_exceptions.PublishToPausedOrderingKeyException,
        subscriber_exceptions.AcknowledgeError,
    )

__all__ = (
    "CHARS_REPLACE_TABLE",
    "PUNCTUATIONS_TO_REPLACE",
    "AtomicCounter",
    "Channel",
    "QueueDescriptor",
    "Transport",
    "UnackedIds",
)

NAME = "gcpubsub"

URL_PREFIX = f"{NAME}://projects/"

# What is asked of Cloud Monitoring.
SIZE_METRIC = "pubsub.googleapis.com/subscription/num_undelivered_messages"

# Seconds that a closing channel waits for the thread that extends leases.
JOIN_TIMEOUT = 5

# Requests that wait for messages at the same time, one for each queue. Threads are made on demand.
MAX_PULLS = 64

logger: logging.Logger = get_logger("kombu.transport.gcpubsub")

# Guards Channel._open, and with it who starts the thread that extends leases.
_open_lock = threading.Lock()


class Channel(Deliveries):
    """A channel of Pub/Sub."""

    #: The shortest lease that Pub/Sub gives, in seconds.
    _min_ack_deadline = 10

    # One thread extends the leases of all channels of the process: it runs while one is open.
    _unacked_extender: ClassVar[Any] = None
    _stop_extender: Any = threading.Event()
    _n_channels: Any = AtomicCounter()
    _open: ClassVar[WeakSet[Channel]] = WeakSet()

    # When its leases are extended again, on the monotonic clock.
    _extend_at = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue_cache = self.connection._queue_cache
        with _open_lock:
            self._open.add(self)
            if self._n_channels.inc() == 1:
                Channel._stop_extender = threading.Event()
                Channel._unacked_extender = threading.Thread(
                    target=self._extend_unacked_deadline, daemon=True
                )
                Channel._unacked_extender.start()

    # What it works with

    @cached_property
    def subscriber(self) -> Any:
        """The client that receives, one for all channels of a connection."""
        return self.connection.subscriber

    @cached_property
    def publisher(self) -> Any:
        """The client that sends, one for all channels of a connection."""
        return self.connection.publisher

    @cached_property
    def monitor(self) -> Any:
        """The client of Cloud Monitoring, one for all channels of a connection."""
        return self.connection.monitor

    @cached_property
    def project_id(self) -> str:
        """The project."""
        return Transport.parse_uri(self.conninfo.hostname)

    # Queues

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        kind = self.typeof(exchange).type
        name = subscription_id = self.entity_name(queue)
        if kind == "direct":
            filter_args = {"filter": filter_for(routing_key)}
            retention = self.expiration_seconds
        elif kind == "fanout":
            filter_args = {}
            retention = FANOUT_RETENTION
            subscription_id += f"-{uuid3(NAMESPACE_OID, f'{gethostname()}.{getpid()}')}"
        else:
            raise NotImplementedError(f"exchange type {kind} not implemented")
        topic_path = self._create_topic(self.project_id, exchange, retention)
        subscription_path = self.subscriber.subscription_path(self.project_id, subscription_id)
        known = self._queue_cache.get(name)
        if known is not None and known.subscription_path == subscription_path:
            return  # another binding, of which Pub/Sub cannot be told: see the module
        self._create_subscription(
            topic_path=topic_path,
            subscription_path=subscription_path,
            filter_args=filter_args,
            msg_retention=retention,
        )
        if kind == "fanout":
            self._tmp_subscriptions.add(subscription_path)
            self._fanout_exchanges.add(exchange)
            found = None
        else:
            # It may have been there, with a filter for another key.
            found = self._filtered_key(subscription_path) or routing_key
        self._queue_cache[name] = QueueDescriptor(
            name=name,
            topic_path=topic_path,
            subscription_id=subscription_id,
            subscription_path=subscription_path,
            routing_key=found,
        )

    def _size(self, queue: str) -> int:
        """About how many messages are in a queue; -1: that cannot be told."""
        known = self._queue_cache.get(self.entity_name(queue))
        if known is None:
            return 0
        if os.environ.get("PUBSUB_EMULATOR_HOST"):
            return -1  # it has no Cloud Monitoring
        series = query.Query(
            self.monitor,
            self.project_id,
            SIZE_METRIC,
            end_time=datetime.datetime.now(datetime.timezone.utc),
            minutes=1,
        ).select_resources(subscription_id=known.subscription_id)
        try:
            return sum(content.points[0].value.int64_value for content in series)
        except PermissionDenied:
            logger.warning("not allowed to ask for the size of queue %r", known.name)
            return -1

    def _purge(self, queue: str) -> int | None:  # type: ignore[override]
        """Remove all messages of a queue; returns about how many, None: no such queue."""
        known = self._queue_cache.get(self.entity_name(queue))
        if known is None:
            return None
        size = self._size(queue)
        self.subscriber.seek(
            request={
                "subscription": known.subscription_path,
                "time": datetime.datetime.now(datetime.timezone.utc),
            }
        )
        return size

    # Publishing

    @staticmethod
    def _get_routing_key(message: dict[str, Any]) -> str:
        return message["properties"].get("delivery_info", {}).get("routing_key", "")

    def _publish(self, topic_path: str, message: dict[str, Any], **attributes: str) -> None:
        sending = self.publisher.publish(
            topic_path, dumps(message).encode(), **attributes, retry=self._retry()
        )
        # Otherwise nobody would hear of an error, and a program's end would lose what waits.
        sending.result(timeout=float(self.retry_timeout_seconds))

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Put a message into a queue: publish it so that the queue's filter lets it through."""
        where = self._descriptor(queue)
        routing_key = where.routing_key
        if routing_key is None:
            routing_key = self._get_routing_key(message)
        self._publish(where.topic_path, message, routing_key=routing_key)

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any
    ) -> None:
        """Publish a message to a fanout exchange."""
        self._lookup(exchange, routing_key)
        self._publish(self.publisher.topic_path(self.project_id, exchange), message)

    # Leases

    def _extend_unacked_deadline(self) -> None:
        """Extend the leases of all channels, until the last is closed: the extender's thread."""
        stop = self._stop_extender
        while not stop.wait(self._min_ack_deadline / 4):
            with _open_lock:
                # This one, which began the thread, may be closed by now.
                channels = [each for each in {self, *self._open} if not each.closed]
            # Channels of one connection have the same queues.
            for channel in {id(each._queue_cache): each for each in channels}.values():
                channel._extend_leases()

    def _extend_leases(self) -> None:
        if monotonic() < self._extend_at:
            return
        leased = {
            known.subscription_path: ack_ids
            for known in list(self._queue_cache.values())
            if (ack_ids := known.unacked_ids[:])
        }
        if not leased:
            return
        size = self.ack_modify_batch_size
        failed = False
        for subscription_path, ack_ids in leased.items():
            for start in range(0, len(ack_ids), size):
                try:
                    self._modify_ack_deadline(
                        subscription_path, ack_ids[start : start + size], self.ack_deadline_seconds
                    )
                except Exception as exc:
                    failed = True
                    logger.error(
                        "failed to extend ack deadline of messages of %s: %s",
                        subscription_path,
                        exc,
                        exc_info=True,
                    )
        if not failed:
            self._extend_at = monotonic() + self.ack_deadline_seconds / 3

    def close(self) -> None:
        """Give back what is not acknowledged, delete what is temporary, and close."""
        if self.closed:
            return
        if self._qos is not None:
            self._qos._flush()
            self._give_back([message.delivery_info for message in self._qos._delivered.values()])
            self._qos._delivered.clear()
        while self._tmp_subscriptions:
            path = self._tmp_subscriptions.pop()
            try:
                self._delete_subscription(path)
            except Exception as exc:
                # It expires.
                logger.warning("subscription %s was not deleted: %r", path, exc)
        with _open_lock:
            self._open.discard(self)
            last = self._n_channels.dec() == 0
            extender = Channel._unacked_extender
            if last:
                self._stop_extender.set()
        if last and extender is not None:
            extender.join(JOIN_TIMEOUT)
        super().close()


def _forget_parent() -> None:
    # In a forked child: the thread is not here, and the parent's channels are not ours.
    global _open_lock
    _open_lock = threading.Lock()
    Channel._n_channels = AtomicCounter()
    Channel._unacked_extender = None
    Channel._open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


class Transport(virtual.Transport):
    """Pub/Sub.

    Raises:
        ImportError: google-cloud-pubsub or google-cloud-monitoring is not installed.
    """

    Channel = Channel

    can_parse_url = True
    polling_interval: float | None = 0.1
    driver_type = NAME
    driver_name = "pubsub_v1"

    connection_errors: tuple[type[BaseException], ...] = (
        virtual.Transport.connection_errors + _LIBRARY_CONNECTION_ERRORS
    )
    channel_errors: tuple[type[BaseException], ...] = (
        virtual.Transport.channel_errors + _LIBRARY_CHANNEL_ERRORS
    )

    implements: Implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "fanout"]),
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if SubscriberClient is None:
            raise missing(NAME, "google-cloud-pubsub and google-cloud-monitoring", NAME)
        super().__init__(client, **kwargs)
        self._queue_cache: dict[str, QueueDescriptor] = {}
        # Topics of fanout exchanges that are there.
        self._topics: set[str] = set()
        self._pool = self._new_pool()
        # Requests that wait for messages, and for which queue.
        self._get_bulk_future_to_queue: dict[Future[Any], str] = {}
        # The last error of each queue's requests, to log it once.
        self._failures: dict[str, str] = {}

    @staticmethod
    def _new_pool() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(MAX_PULLS, thread_name_prefix="kombu-gcpubsub")

    @cached_property
    def subscriber(self) -> Any:
        """The client that receives."""
        return SubscriberClient()

    @cached_property
    def publisher(self) -> Any:
        """The client that sends: at once, not in batches, since each message is waited for."""
        return PublisherClient(batch_settings=BatchSettings(max_messages=1))

    @cached_property
    def monitor(self) -> Any:
        """The client of Cloud Monitoring."""
        return monitoring_v3.MetricServiceClient()

    def driver_version(self) -> str:
        """Version of google-cloud-pubsub."""
        return library_version

    @staticmethod
    def parse_uri(uri: str) -> str:
        """Return the project that a URL names.

        Raises:
            ValueError: it names none.
        """
        # A connection may have been given such a URL as something that only looks like a string.
        project = uri.split(URL_PREFIX)[-1].strip("/")
        if not uri.startswith(URL_PREFIX) or not project:
            raise ValueError(f"Need a URI like {URL_PREFIX}PROJECT, got {uri!r}")
        return project

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``: there is nothing secret in it."""
        return uri or f"{NAME}://"

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            ValueError: the URL names no project, or a transport option is wrong.
        """
        self.parse_uri(self.client.hostname)
        check_options(self.client.transport_options or {})
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels and clients; what nobody has received yet is given back."""
        while self._get_bulk_future_to_queue:
            future, _ = self._get_bulk_future_to_queue.popitem()
            if not future.cancel() and future.done() and future.exception() is None:
                self._give_back(future.result()[1])
        super().close_connection(connection)
        self._queue_cache.clear()
        self._topics.clear()
        # Those that were used.
        for name in ("publisher", "subscriber", "monitor"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                # Nothing waits to be sent: each message was waited for.
                close_quietly(logger, f"the client {name}", client.transport)
        # Requests that still wait have failed with the client.
        self._pool.shutdown(wait=False)
        self._pool = self._new_pool()

    def _give_back(self, payloads: Iterable[dict[str, Any]]) -> None:
        infos = [payload["properties"]["delivery_info"] for payload in payloads]
        for channel in self.channels[:1]:  # any: queues belong to all of them
            channel._give_back(infos)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # type: ignore[override]
        """Deliver what has come, waiting for something.

        Raises:
            socket.timeout: nothing came in time.
        """
        started = monotonic()
        left = timeout
        pause = self.polling_interval
        if timeout and pause and pause > timeout:
            pause = timeout
        while True:
            try:
                self._drain_from_active_queues(timeout=left)
                return
            except Empty:
                if timeout is not None:
                    left = timeout - (monotonic() - started)
                    if left <= 0:
                        raise TimeoutError() from None
                if pause:
                    sleep(pause)

    def _drain_from_active_queues(self, timeout: float | None) -> None:
        """Deliver what requests have brought; new ones are sent for queues that have none.

        Raises:
            queue.Empty: they have brought nothing, or there are none.
        """
        self._rm_empty_bulk_requests()
        self._submit_get_bulk_requests(timeout=timeout)
        done, _ = wait(self._get_bulk_future_to_queue, timeout=timeout, return_when=FIRST_COMPLETED)
        came = False
        for future in done:
            asked = self._get_bulk_future_to_queue.pop(future, "")
            if self._failed(future, asked):
                continue
            came = True
            queue, payloads = future.result()
            self._deliver_all(queue, payloads)
        if not came:
            raise Empty()

    def _deliver_all(self, queue: str, payloads: list[dict[str, Any]]) -> None:
        waiting = iter(payloads)
        try:
            # Asked each time: a callback may end the consumer.
            while queue in self._callbacks:
                payload = next(waiting, None)
                if payload is None:
                    return
                self._deliver(payload, queue)
        finally:
            self._give_back(waiting)

    def _failed(self, future: Future[Any], queue: str) -> bool:
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self._failures.pop(queue, None)
            return False
        if error is not None and not isinstance(error, Empty):
            text = f"{type(error).__name__}: {error}"
            if self._failures.get(queue) != text:
                self._failures[queue] = text
                logger.error("receiving from queue %r failed, trying again: %s", queue, text)
        return True

    def _rm_empty_bulk_requests(self) -> None:
        """Forget requests that brought nothing."""
        for future, queue in list(self._get_bulk_future_to_queue.items()):
            if future.done() and self._failed(future, queue):
                self._get_bulk_future_to_queue.pop(future, None)

    def _submit_get_bulk_requests(self, timeout: float | None) -> None:
        """Send a request for each queue that is consumed from and has none."""
        asked = set(self._get_bulk_future_to_queue.values())
        for channel in list(self.channels):
            if not channel.qos.can_consume():
                continue
            for queue in channel._active_queues:
                if queue not in asked:
                    asked.add(queue)
                    future = self._pool.submit(channel._get_bulk, queue, timeout)
                    self._get_bulk_future_to_queue[future] = queue
