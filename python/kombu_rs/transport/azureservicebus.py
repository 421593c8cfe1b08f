"""``azureservicebus://``: Azure Service Bus.

It needs azure-servicebus, and azure-identity for credentials by name
(``pip install kombu-rs[azureservicebus]``). URLs::

    azureservicebus://SAS_POLICY_NAME:SAS_KEY@NAMESPACE
    azureservicebus://DefaultAzureCredential@NAMESPACE
    azureservicebus://ManagedIdentityCredential@NAMESPACE

The namespace may go without ``.servicebus.windows.net``. The policy must allow Manage, Send and
Listen, since queues are made and deleted.

A queue is a queue of the namespace; punctuation in its name other than ``-``, ``.`` and ``_``
becomes ``_``. A message is Kombu's JSON as the body. It is locked while it is handled: an
acknowledgement completes it, requeueing abandons it (it comes again at once), rejecting it moves it
to the queue's dead letters. A message whose lock expires comes again. Consumers that need no
acknowledgements receive and delete in one step. Direct and topic exchanges, whose bindings are
known to the connection that declared them; no fanout.

Options in ``transport_options``:

============================= ====================================================================
``queue_name_prefix``         put before the names of all queues
``wait_time_seconds``         how long to wait for a message of one queue, above 0; default 5
``peek_lock_seconds``         how long a message is locked, 5 to 300; for queues that are made;
                              default 60
``uamqp_keep_alive_interval`` seconds between keep-alives of idle links; default 30, 0: none
``retry_total``               how often the client library tries again; default 3
``retry_backoff_factor``      seconds it waits at first; default 0.8
``retry_backoff_max``         seconds it waits at most; default 120
``use_lock_renewal``          renew the locks of messages while they are handled; default False
``max_lock_renewal_duration`` for how many seconds; default 3600
============================= ====================================================================
"""

from __future__ import annotations

import datetime
import logging
import string
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Any

from ..log import get_logger
from ..utils.encoding import safe_str
from ..utils.json import dumps
from ..utils.objects import cached_property
from . import virtual
from ._channels import WithOptions
from ._cloud import close_quietly, identity_name, make_identity, number_option, read_payload
from ._libraries import missing

# What cannot have reached the broker: sending again duplicates nothing.
_CONNECTION_LOST_ERRORS: tuple[type[BaseException], ...] = ()
# What goes away by itself. After the others of them the broker may have the message.
_TRANSIENT_ERRORS: tuple[type[BaseException], ...] = ()

try:
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
    from azure.servicebus import (
        AutoLockRenewer,
        ServiceBusClient,
        ServiceBusMessage,
        ServiceBusReceiveMode,
    )

    # The link's own errors get through in places; they have no public name.
    from azure.servicebus._pyamqp.error import (
        AMQPConnectionError,
        AMQPLinkError,
        AMQPSessionError,
    )
    from azure.servicebus.exceptions import (
        MessageAlreadySettled,
        MessageLockLostError,
        OperationTimeoutError,
        ServiceBusCommunicationError,
        ServiceBusConnectionError,
        ServiceBusServerBusyError,
    )
    from azure.servicebus.management import ServiceBusAdministrationClient
except ImportError:  # the transport says so when it is used
    ServiceBusClient = ServiceBusAdministrationClient = None
else:
    _CONNECTION_LOST_ERRORS = (
        ServiceBusConnectionError,
        AMQPConnectionError,
        AMQPSessionError,
        AMQPLinkError,
    )
    _TRANSIENT_ERRORS = (
        *_CONNECTION_LOST_ERRORS,
        ServiceBusCommunicationError,
        OperationTimeoutError,
        ServiceBusServerBusyError,
    )

__all__ = ("Channel", "SendReceive", "Transport")

NAME = "azureservicebus"

HOST_SUFFIX = ".servicebus.windows.net"

#: What names of queues there may not have.
PUNCTUATIONS_TO_REPLACE = set(string.punctuation) - {"_", ".", "-"}
CHARS_REPLACE_TABLE = {ord(char): ord("_") for char in PUNCTUATIONS_TO_REPLACE}

# The shortest wait for a message: the client library refuses 0.
MIN_WAIT = 0.1

# How often a message's renewal is taken up again after an error.
MAX_RENEWALS_AGAIN = 3

logger: logging.Logger = get_logger("kombu.transport.azureservicebus")


class SendReceive:
    """A sender, a receiver or both, of one queue.

    Arguments:
        receiver: a ``ServiceBusReceiver``.
        sender: a ``ServiceBusSender``.
    """

    def __init__(self, receiver: Any = None, sender: Any = None) -> None:
        self.receiver: Any = receiver
        self.sender: Any = sender

    def close(self) -> None:
        """Close both."""
        sender, self.sender = self.sender, None
        receiver, self.receiver = self.receiver, None
        try:
            if sender is not None:
                sender.close()
        finally:
            if receiver is not None:
                receiver.close()


class Channel(WithOptions):
    """A channel of Azure Service Bus."""

    default_wait_time_seconds: int = 5
    default_peek_lock_seconds: int = 60
    default_uamqp_keep_alive_interval: int = 30
    default_retry_total: int = 3
    default_retry_backoff_factor: float = 0.8
    default_retry_backoff_max: int = 120
    default_use_lock_renewal: bool = False
    default_max_lock_renewal_duration: float = 3600.0

    #: Kombu's name; nothing reads it.
    domain_format: str = "kombu%(vhost)s"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._namespace, self._credential = Transport.parse_uri(self.conninfo.hostname)
        self._policy: str | None = None
        self._sas_key: str | None = None
        self._connection_string: str | None = None
        if isinstance(self._credential, str):
            self._policy, _, self._sas_key = self._credential.partition(":")
            self._connection_string = (
                f"Endpoint=sb://{self._namespace};"
                f"SharedAccessKeyName={self._policy};SharedAccessKey={self._sas_key}"
            )

    # What it works with

    def _client(self, cls: Any, **options: Any) -> Any:
        if self._connection_string is not None:
            return cls.from_connection_string(self._connection_string, **options)
        return cls(self._namespace, self._credential, **options)

    @cached_property
    def queue_service(self) -> Any:
        """The client for messages, one for all channels of a connection."""
        transport = self.connection
        if transport._queue_service is None:
            transport._queue_service = self._client(
                ServiceBusClient,
                retry_total=self.retry_total,
                retry_backoff_factor=self.retry_backoff_factor,
                retry_backoff_max=self.retry_backoff_max,
            )
        return transport._queue_service

    @cached_property
    def queue_mgmt_service(self) -> Any:
        """The client that makes and deletes queues, one for all channels of a connection."""
        transport = self.connection
        if transport._queue_mgmt_service is None:
            transport._queue_mgmt_service = self._client(ServiceBusAdministrationClient)
        return transport._queue_mgmt_service

    @property
    def _queue_cache(self) -> dict[str, SendReceive]:
        return self.connection._queue_cache

    @property
    def _noack_queues(self) -> set[str]:
        tags = self.connection._noack_consumer_tags
        return {queue for tag, queue in self._tag_to_queue.items() if tag in tags}

    def _add_queue_to_cache(
        self, name: str, receiver: Any = None, sender: Any = None
    ) -> SendReceive:
        entry = self._queue_cache.setdefault(name, SendReceive())
        entry.receiver = receiver or entry.receiver
        entry.sender = sender or entry.sender
        return entry

    def _get_asb_sender(self, queue: str) -> SendReceive:
        entry = self._queue_cache.get(queue)
        if entry is None or entry.sender is None:
            sender = self.queue_service.get_queue_sender(
                queue, keep_alive=self.uamqp_keep_alive_interval
            )
            entry = self._add_queue_to_cache(queue, sender=sender)
        return entry

    def _reset_cached_sender(self, queue: str) -> None:
        # It belongs to a connection that is gone, and would fail for ever.
        entry = self._queue_cache.get(queue)
        if entry is not None and entry.sender is not None:
            sender, entry.sender = entry.sender, None
            close_quietly(logger, "the sender of a lost connection", sender)

    @staticmethod
    def _receiver_cache_key(queue: str, recv_mode: Any = None) -> str:
        return f"{queue}::{(recv_mode or ServiceBusReceiveMode.PEEK_LOCK).name}"

    def _new_receiver(self, queue: str, recv_mode: Any) -> Any:
        return self.queue_service.get_queue_receiver(
            queue_name=queue, receive_mode=recv_mode, keep_alive=self.uamqp_keep_alive_interval
        )

    def _get_asb_receiver(
        self, queue: str, recv_mode: Any = None, queue_cache_key: str | None = None
    ) -> SendReceive:
        # One for each mode: a receiver cannot change it.
        recv_mode = recv_mode or ServiceBusReceiveMode.PEEK_LOCK
        key = queue_cache_key or self._receiver_cache_key(queue, recv_mode)
        entry = self._queue_cache.get(key)
        if entry is None or entry.receiver is None:
            entry = self._add_queue_to_cache(key, receiver=self._new_receiver(queue, recv_mode))
        return entry

    def _close_cached_receiver(self, queue: str, recv_mode: Any) -> None:
        entry = self._queue_cache.pop(self._receiver_cache_key(queue, recv_mode), None)
        if entry is not None:
            close_quietly(logger, "the receiver of a lost connection", entry)

    def entity_name(self, name: str, table: dict[int, int] | None = None) -> str:
        """Return ``name`` as the service allows it."""
        return safe_str(name).translate(CHARS_REPLACE_TABLE if table is None else table)

    def _name(self, queue: str) -> str:
        return self.entity_name(self.queue_name_prefix + queue)

    # Queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Make a queue, if it is not there."""
        name = self._name(queue)
        if name in self._queue_cache:
            return
        with suppress(ResourceExistsError):
            self.queue_mgmt_service.create_queue(
                queue_name=name, lock_duration=datetime.timedelta(seconds=self.peek_lock_seconds)
            )
        self._add_queue_to_cache(name)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue."""
        name = self._name(queue)
        with suppress(ResourceNotFoundError):
            self.queue_mgmt_service.delete_queue(name)
        for key in list(self._queue_cache):
            if key == name or key.startswith(f"{name}::"):
                entry = self._queue_cache.pop(key)
                close_quietly(logger, f"what was used of queue {name!r}", entry)

    def _size(self, queue: str) -> int:
        """How many messages are in a queue, its dead letters included."""
        properties = self.queue_mgmt_service.get_queue_runtime_properties(self._name(queue))
        return properties.total_message_count

    def _purge(self, queue: str) -> int:
        """Remove all messages of a queue that are not locked; returns how many."""
        count = 0
        # A receiver of its own: one that stays would go on taking messages.
        receiver = self._new_receiver(self._name(queue), ServiceBusReceiveMode.RECEIVE_AND_DELETE)
        with receiver:
            while messages := receiver.receive_messages(max_message_count=100, max_wait_time=1):
                count += len(messages)
        return count

    # Messages

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message into a queue.

        The client library's errors are raised. After a lost connection, which the broker may close
        whenever nothing was sent for a while, the message is sent once more.
        """
        name = self._name(queue)
        body = dumps(message)
        for last in (False, True):
            try:
                self._get_asb_sender(name).sender.send_messages(ServiceBusMessage(body))
                return
            except _TRANSIENT_ERRORS as exc:
                self._reset_cached_sender(name)
                if last or not isinstance(exc, _CONNECTION_LOST_ERRORS):
                    raise
                logger.info("sending to queue %r again: %s", name, type(exc).__name__)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take a message from a queue.

        Arguments:
            queue: its name.
            timeout: wait for so many seconds; default: ``wait_time_seconds``.

        Raises:
            queue.Empty: there is none, or the connection was lost.
            ValueError: it is not a message of Kombu's; it stays locked for the time being.
        """
        name = self._name(queue)
        modes = ServiceBusReceiveMode
        locked = queue not in self._noack_queues
        mode = modes.PEEK_LOCK if locked else modes.RECEIVE_AND_DELETE
        try:
            messages = self._get_asb_receiver(name, recv_mode=mode).receiver.receive_messages(
                max_message_count=1, max_wait_time=timeout or self.wait_time_seconds
            )
        except _TRANSIENT_ERRORS as exc:
            logger.warning("receiving from queue %r: %s: %s", name, type(exc).__name__, exc)
            self._close_cached_receiver(name, mode)
            raise Empty() from None
        if not messages:
            raise Empty()
        message = messages[0]
        if locked and self.use_lock_renewal:
            try:
                self._register_for_renewal(name, message)
            except Exception as exc:
                logger.warning("no lock renewal for a message of queue %r: %r", name, exc)
        payload = read_payload(b"".join(message.body), name)
        delivery_info = payload["properties"]["delivery_info"]
        # What an acknowledgement needs. Without it the message has left the broker.
        delivery_info.pop("azure_message", None)
        if locked:
            delivery_info.update(azure_message=message, azure_queue_name=name)
        return payload

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> Any:
        wait = self.wait_time_seconds
        if timeout is not None:
            wait = max(min(timeout, wait), MIN_WAIT)
        return cycle.get(callback, timeout=wait)

    def _get_and_deliver(self, queue: str, callback: Any, timeout: float | None = None) -> None:
        callback(self._get(queue, timeout=timeout), queue)

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Any,
        consumer_tag: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Start a consumer."""
        if no_ack:
            self.connection._noack_consumer_tags.add(consumer_tag)
        super().basic_consume(queue, no_ack, callback, consumer_tag, *args, **kwargs)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer."""
        super().basic_cancel(consumer_tag)
        self.connection._noack_consumer_tags.discard(consumer_tag)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take a message, or None."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if no_ack and message is not None:
            self._settle(message.delivery_info, "complete_message")
        return message

    def _settle(self, delivery_info: dict[str, Any], how: str, **kwargs: Any) -> bool:
        """Tell the broker what became of a message; False: it does not know, and sends it again.

        Arguments:
            delivery_info: the message's.
            how: a method of receivers.
        """
        message = delivery_info.get("azure_message")
        if message is None:
            return True
        queue = delivery_info["azure_queue_name"]
        try:
            receiver = self._get_asb_receiver(queue).receiver
            if not getattr(receiver, "_running", True):
                # In place of one whose connection was lost, and nothing was received with it
                # yet: until it is open it refuses to settle.
                receiver._open_with_retry()
            getattr(receiver, how)(message, **kwargs)
        except MessageAlreadySettled:
            pass
        except MessageLockLostError as exc:
            logger.warning(
                "%s on queue %r: %s. The message was locked for too short a time and comes again; "
                "see the transport options peek_lock_seconds and use_lock_renewal",
                how,
                queue,
                type(exc).__name__,
            )
            return False
        except Exception:
            logger.exception("%s on queue %r failed, the message comes again", how, queue)
            return False
        return True

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery; with ``multiple`` those before it too."""
        if multiple:
            for tag in self.qos.tags_before(delivery_tag):
                self.basic_ack(tag)
        try:
            delivery_info = self.qos.get(delivery_tag).delivery_info
        except KeyError:
            super().basic_ack(delivery_tag)
            return
        if self._settle(delivery_info, "complete_message"):
            super().basic_ack(delivery_tag)
        else:
            super().basic_reject(delivery_tag)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery: it becomes a dead letter; with ``requeue`` it comes again."""
        if not requeue:
            try:
                delivery_info = self.qos.get(delivery_tag).delivery_info
            except KeyError:
                pass
            else:
                self._settle(delivery_info, "dead_letter_message", reason="rejected")
        super().basic_reject(delivery_tag, requeue=requeue)

    def _restore(self, message: Any) -> None:
        if "azure_message" in message.delivery_info:
            self._settle(message.delivery_info, "abandon_message")
        else:
            super()._restore(message)

    # Locks

    def _get_renewal_receiver(self, queue: str) -> SendReceive:
        # A connection of its own: a receiver that waits for messages holds its connection's lock.
        key = f"{queue}::_renewal"
        entry = self._queue_cache.get(key)
        if entry is None or entry.receiver is None:
            receiver = self._new_receiver(queue, ServiceBusReceiveMode.PEEK_LOCK)
            # Receivers open when they first receive. This one never does, and until it is open
            # it refuses to renew.
            receiver._open_with_retry()
            entry = self._add_queue_to_cache(key, receiver=receiver)
        return entry

    def _create_auto_lock_renewer(self) -> Any:
        return AutoLockRenewer(max_lock_renewal_duration=self.max_lock_renewal_duration)

    def _register_for_renewal(self, queue: str, message: Any) -> None:
        if self.connection._renewer is None:
            self.connection._renewer = self._create_auto_lock_renewer()
        self._register_message_for_renewal(self._get_renewal_receiver(queue).receiver, message)

    def _register_message_for_renewal(self, receiver: Any, message: Any) -> None:
        # The receiver goes into the callback: messages are pickled, and receivers cannot be.
        self.connection._renewer.register(
            receiver,
            message,
            on_lock_renew_failure=partial(self._on_lock_renew_failure, receiver),
        )

    def _on_lock_renew_failure(self, receiver: Any, renewable: Any, error: Any) -> None:
        # The renewer gives a message up at the first error, the renewer's thread calls this.
        if self.connection is None or self.connection._renewer is None:
            return
        if renewable._lock_expired or renewable._settled:
            return
        again = getattr(renewable, "_kombu_renew_retries", 0)
        if again >= MAX_RENEWALS_AGAIN:
            logger.warning("the lock of a message is not renewed any more: %r", error)
            return
        renewable._kombu_renew_retries = again + 1
        renewable.auto_renew_error = None
        self._register_message_for_renewal(receiver, renewable)

    # Options

    def _number(self, name: str, **limits: Any) -> Any:
        default = getattr(self, f"default_{name}")
        return number_option(self.transport_options, name, default, **limits)

    @cached_property
    def queue_name_prefix(self) -> str:
        """What goes before the names of all queues."""
        return self.transport_options.get("queue_name_prefix", "")

    @cached_property
    def wait_time_seconds(self) -> Any:
        """Seconds to wait for a message."""
        return self._number("wait_time_seconds", above=0)

    @cached_property
    def peek_lock_seconds(self) -> Any:
        """Seconds that a message of a new queue is locked; 300 at most."""
        return min(self._number("peek_lock_seconds", least=5), 300)

    @cached_property
    def uamqp_keep_alive_interval(self) -> Any:
        """Seconds between keep-alives; 0: none."""
        return self._number("uamqp_keep_alive_interval", least=0)

    @cached_property
    def retry_total(self) -> Any:
        """How often the client library tries again."""
        return self._number("retry_total", least=0)

    @cached_property
    def retry_backoff_factor(self) -> Any:
        """Seconds that the client library waits before it tries again, at first."""
        return self._number("retry_backoff_factor", least=0)

    @cached_property
    def retry_backoff_max(self) -> Any:
        """Seconds that the client library waits before it tries again, at most."""
        return self._number("retry_backoff_max", least=0)

    @cached_property
    def use_lock_renewal(self) -> bool:
        """Whether the locks of messages are renewed."""
        return self.transport_options.get("use_lock_renewal", self.default_use_lock_renewal)

    @cached_property
    def max_lock_renewal_duration(self) -> float:
        """For how many seconds the lock of a message is renewed."""
        return float(self._number("max_lock_renewal_duration", above=0))


class Transport(virtual.Transport):
    """Azure Service Bus.

    Raises:
        ImportError: azure-servicebus is not installed.
    """

    Channel = Channel

    polling_interval: float | None = 1
    default_port: int | None = None
    can_parse_url = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if ServiceBusClient is None:
            raise missing(NAME, "azure-servicebus", NAME)
        super().__init__(client, **kwargs)
        # Of all channels: a queue's sender, and its receivers under the queue and the mode.
        self._queue_cache: dict[str, SendReceive] = {}
        self._noack_consumer_tags: set[str] = set()
        self._renewer: Any = None
        self._queue_service: Any = None
        self._queue_mgmt_service: Any = None

    def close_connection(self, connection: Any) -> None:
        """Close all channels, and everything that they used."""
        renewer, self._renewer = self._renewer, None
        if renewer is not None:
            close_quietly(logger, "the AutoLockRenewer", renewer)
        # They give messages back, and need the receivers for that.
        super().close_connection(connection)
        self._noack_consumer_tags.clear()
        while self._queue_cache:
            name, entry = self._queue_cache.popitem()
            close_quietly(logger, f"what was used of queue {name!r}", entry)
        for attribute in ("_queue_service", "_queue_mgmt_service"):
            client = getattr(self, attribute)
            setattr(self, attribute, None)
            if client is not None:
                close_quietly(logger, f"the client {attribute[1:]}", client)

    @staticmethod
    def _split(uri: str) -> tuple[str, str]:
        # A key may have slashes and at-signs in it; a namespace has none.
        credential, _, namespace = uri.removeprefix(f"{NAME}://").rpartition("@")
        namespace = namespace.rstrip("/")
        if not (credential and namespace):
            raise ValueError(
                f"Need a URI like {NAME}://{{SAS policy name}}:{{SAS key}}@{{NAMESPACE}}, "
                f"{NAME}://DefaultAzureCredential@{{NAMESPACE}} or "
                f"{NAME}://ManagedIdentityCredential@{{NAMESPACE}}"
            )
        if identity_name(credential) is None and ":" not in credential:
            raise ValueError(
                f"{NAME}://...@{namespace}: before the @ there must be {{SAS policy name}}:"
                "{SAS key}, DefaultAzureCredential or ManagedIdentityCredential"
            )
        if not namespace.endswith(HOST_SUFFIX):
            namespace += HOST_SUFFIX
        return credential, namespace

    @staticmethod
    def parse_uri(uri: str) -> tuple[str, Any]:
        """Return what a URL says: the namespace's host, and the credential.

        That is a credential of azure-identity, or ``policy:key``.

        Raises:
            ValueError: it has no credential or no namespace.
            ImportError: it names a credential, and azure-identity is not installed.
        """
        credential, namespace = Transport._split(uri)
        identity = identity_name(credential)
        return namespace, credential if identity is None else make_identity(NAME, identity)

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri`` with the whole host, by default with the key masked.

        Raises:
            ValueError: it has no credential or no namespace.
        """
        credential, namespace = cls._split(uri)
        identity = identity_name(credential)
        if identity is not None:
            shown = identity
        elif include_password:
            shown = credential
        else:
            shown = f"{credential.partition(':')[0]}:{mask}"
        return f"{NAME}://{shown}@{namespace}"
