"""``sqs://``: queues of Amazon SQS, with fanout through topics of Amazon SNS.

It needs boto3 (``pip install kombu-rs[sqs]``), nothing else.

URLs: ``sqs://ACCESS_KEY_ID:SECRET_ACCESS_KEY@`` with both quoted, ``sqs://`` for the credentials
that boto3 finds, ``sqs://...@HOST:PORT`` for a server other than AWS's.

**Messages.** A queue's name in AWS is the option ``queue_name_prefix`` and its own name, with ``-``
for a dot and ``_`` for other characters that AWS does not take; the ending ``.fifo`` stays. A
message is Kombu's JSON (body, content type, headers, properties), in Base64. A text that is no such
JSON is received as a message with that body, so that other programs can send messages as well. A
fanout exchange is a topic, and its queues are subscribed to it when they are first consumed. Other
exchanges and their bindings are known only to the process that declared them.

Properties of a message that SQS takes: ``message_attributes``, ``MessageGroupId`` and
``MessageDeduplicationId`` (FIFO queues have defaults for both), ``delay_seconds`` or
``DelaySeconds`` (at most 900; not on FIFO queues).

An acknowledgement deletes the message. One that is rejected is deleted too, unless its queue has a
redrive policy (SQS then moves it to the dead-letter queue), or a backoff policy names its task.
One that is requeued can be received again after ``wait_time_seconds``. What a worker had when it
died comes back after the queue's visibility timeout.

**How a worker receives.** With an event loop (:meth:`Transport.register_with_event_loop`, which
Celery calls) requests that wait for messages, "long polls", run on threads: one for each queue, at
most 32. A thread sleeps in its socket with the GIL released. When there is an answer it rings the
loop, and everything else happens on the loop's thread: messages are delivered there, and the next
request is begun there.

A request asks for no more messages than the prefetch count allows, and what it asks for is
reserved until it is answered: there are never more messages without acknowledgement than that.
With several queues each keeps a part, most of it those that have messages. With less credit than
queues they take turns, a second each. A queue without credit asks again as soon as a delivery is
settled. After an empty answer the option ``polling_interval`` passes before the next request.

An error of the network is raised on the loop, so that Celery connects again. An error of SQS, such
as a permission that is missing, is logged, and the queue is asked again after 1, 2, 4 ... 60
seconds.

A consumer that is cancelled does not wait for its request. Messages that come after all are made
visible again by the thread, as long as the process lives; the end of the process ends the request,
before which it waits for messages that are just being given back, at most 5 seconds. A forked
child has none of its parent's requests, clients, consumers and deliveries: it may close the
connection, and what its parent works on stays with the parent.

Without an event loop ``drain_events`` waits on the caller's thread, queue after queue, in whole
seconds.

**Transport options.**

============================ =======================================================================
``region``                   default: boto3's, or us-east-1
``endpoint_url``             a server other than AWS's; also by the URL's host
``is_secure``                use TLS with the URL's host; default False
``client-config``            dictionary for ``botocore.config.Config``
``wait_time_seconds``        seconds that SQS waits for a message, 0 to 20; default 10
``polling_interval``         seconds between requests after an empty one; default 1
``visibility_timeout``       seconds, of queues that are created; default 1800
``queue_name_prefix``        begins the names of queues and topics in AWS
``sqs-creation-attributes``  further attributes of queues that are created
``queue_tags``               tags of queues that are created
``sqs_base64_encoding``      send in Base64; default True. Both are understood
``fetch_message_attributes`` dictionary with lists of names as ``MessageSystemAttributeNames`` and
                             ``MessageAttributeNames``; or a list, which is the former
``supports_fanout``          use SNS for fanout exchanges; default False: they deliver nothing
``predefined_queues``        only these, which are not created or deleted: by name ``url``, and
                             optionally ``region``, ``access_key_id``, ``secret_access_key``,
                             ``session_token``, ``backoff_policy`` (seconds by number of
                             deliveries) and ``backoff_tasks`` (names)
``predefined_exchanges``     only these topics: by exchange ``arn``, and optionally ``region``,
                             ``access_key_id``, ``secret_access_key``
``sts_role_arn``             assume this role for predefined queues and exchanges
``sts_token_timeout``        seconds that its credentials live; default 900
``sts_token_buffer_time``    seconds before their end when they are renewed; default 0
============================ =======================================================================
"""

from __future__ import annotations

import os
import uuid
from time import monotonic
from typing import Any
from weakref import WeakSet

from ...asynchronous.aws.sqs.connection import AsyncSQSConnection
from ...asynchronous.aws.sqs.message import AsyncMessage
from ...log import get_logger
from .. import virtual
from .._libraries import missing
from . import _sdk
from ._clients import undefined_queue
from ._messages import MAX_DELAY_SECONDS
from ._qos import QoS
from ._receiving import Receiving
from ._sdk import BotoCoreError, ClientError, boto3
from ._settings import CHARS_REPLACE_TABLE, SQS_MAX_MESSAGES, maybe_int
from .exceptions import (
    AccessDeniedQueueException,
    DoesNotExistQueueException,
    InvalidQueueException,
    UndefinedQueueException,
)
from .SNS import SNS as SnsFanout

__all__ = (
    "CHARS_REPLACE_TABLE",
    "MAX_DELAY_SECONDS",
    "SQS_MAX_MESSAGES",
    "AccessDeniedQueueException",
    "AsyncMessage",
    "AsyncSQSConnection",
    "Channel",
    "ClientError",
    "DoesNotExistQueueException",
    "InvalidQueueException",
    "QoS",
    "SnsFanout",
    "Transport",
    "UndefinedQueueException",
    "boto3",
    "maybe_int",
    "uuid",
)

logger = get_logger("kombu.transport.SQS")


class Channel(Receiving):
    """A channel on SQS.

    Raises:
        ImportError: boto3 is not installed.
        InvalidQueueException: a predefined queue is not defined well.
        ValueError: a transport option has a value that it cannot have.
    """

    QoS = QoS

    #: Seconds for which it is remembered whether a queue has a redrive policy.
    redrive_policy_cache_ttl = 300

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _sdk.boto3 is None:
            raise missing("sqs", "boto3", "sqs")
        super().__init__(*args, **kwargs)
        self.hub = kwargs.get("hub") or self._transport.hub
        _ = self.wait_time_seconds  # find out now whether it is good
        if self.predefined_queues:
            self._validate_predifined_queues()
        else:
            # Which also shows that SQS is there and takes the credentials.
            self._update_queue_cache(self.queue_name_prefix)

    @property
    def fanout(self) -> Any:
        """The topics of fanout exchanges."""
        if self._fanout is None:
            self._fanout = SnsFanout(self)
        return self._fanout

    @property
    def _redrive_policies(self) -> dict[str, tuple[bool, float]]:
        """Whether a queue has a redrive policy, and when that was read, by URL."""
        return self._transport._redrive_policies

    def asynsqs(self, queue: str | None = None) -> Any:
        """Return what makes requests on threads.

        Arguments:
            queue: its name in AWS; matters when queues are predefined.

        Raises:
            UndefinedQueueException: queues are predefined, and it is not among them.
        """
        predefined = queue is not None and bool(self.predefined_queues)
        if predefined and queue not in self.predefined_queues:
            raise undefined_queue(str(queue))
        # First the client: with renewed credentials it is another.
        client = self.sqs(queue=queue)
        made = self._predefined_queue_async_clients.get(queue) if predefined else self._asynsqs
        if made is None:
            settings = self.predefined_queues[str(queue)] if predefined else {}
            attributes = self.get_message_attributes
            made = AsyncSQSConnection(
                sqs_connection=client,
                region=settings.get("region", self.region),
                message_system_attribute_names=attributes["MessageSystemAttributeNames"],
                message_attribute_names=attributes["MessageAttributeNames"],
            )
            if predefined:
                self._predefined_queue_async_clients[queue] = made
            else:
                self._asynsqs = made
        made.hub = self.hub
        return made

    def _has_redrive_policy(self, queue: str | None, queue_url: str) -> bool:
        """Whether SQS moves messages of a queue away that are delivered too often.

        If that cannot be found out it may be so.
        """
        known, read_at = self._redrive_policies.get(queue_url, (None, 0.0))
        now = monotonic()
        if known is not None and now - read_at < self.redrive_policy_cache_ttl:
            return known
        try:
            answer = self.sqs(queue=queue).get_queue_attributes(
                QueueUrl=queue_url, AttributeNames=["RedrivePolicy"]
            )
        except ClientError as exc:
            logger.warning("Could not read the redrive policy of queue %s: %s", queue_url, exc)
            if _sdk.error_code(exc) == "AccessDenied":
                # It stays so; asking each time would be of no use.
                self._redrive_policies[queue_url] = True, now
            return True
        has_policy = "RedrivePolicy" in answer.get("Attributes", {})
        self._redrive_policies[queue_url] = has_policy, now
        return has_policy


class Transport(virtual.Transport):
    """The transport on SQS; see the module for its options.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel

    driver_type = "sqs"
    driver_name = "sqs"

    default_port = None

    #: Seconds between requests for messages after an empty one.
    polling_interval: float | None = 1
    wait_time_seconds = 0

    connection_errors = (*virtual.Transport.connection_errors, BotoCoreError, OSError)
    channel_errors = (*virtual.Transport.channel_errors, BotoCoreError)

    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct"])
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        #: The event loop of channels that are opened from now on.
        self.hub: Any = None
        # What the channels of a connection share; other connections may have another account.
        self._queue_cache: dict[str, str] = {}
        self._noack_queues: set[str] = set()
        self._redrive_policies: dict[str, tuple[bool, float]] = {}
        self._clients: dict[str, Any] = {}
        self._predefined_queue_clients: dict[str, Any] = {}
        self._predefined_queue_async_clients: dict[str, Any] = {}
        self._sts_expiration: Any = None
        _transports.add(self)

    def driver_version(self) -> str:
        """Version of boto3."""
        return getattr(_sdk.boto3, "__version__", "N/A")

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the consumers of all channels receive through ``loop``."""
        self.hub = loop
        for channel in {*self.channels, *self._avail_channels}:
            channel.consume_with(loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Undo :meth:`register_with_event_loop`."""
        self.register_with_event_loop(connection, None)

    def _forget_parent(self) -> None:
        """In a forked child: forget sockets, requests and consumers, which are the parent's."""
        self.hub = None
        self._callbacks.clear()
        self._noack_queues.clear()
        for clients in (
            self._clients,
            self._predefined_queue_clients,
            self._predefined_queue_async_clients,
        ):
            clients.clear()
        for channel in {*self.channels, *self._avail_channels}:
            channel.forget_parent()

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that are filled in when they are missing."""
        return {"port": self.default_port}


_transports: WeakSet[Transport] = WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_transports):
        transport._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
