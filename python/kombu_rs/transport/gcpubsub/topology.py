"""Exchanges and queues as topics and subscriptions."""

from __future__ import annotations

import datetime
import logging
import re
import string
from contextlib import suppress
from typing import Any

from ...log import get_logger
from ...utils.encoding import safe_str
from ...utils.objects import cached_property
from .leases import QueueDescriptor
from .options import Options

try:
    from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, NotFound
    from google.protobuf.field_mask_pb2 import FieldMask
    from google.pubsub_v1.types import Subscription
except ImportError:  # the transport says so when it is used
    Subscription = None

__all__ = ("CHARS_REPLACE_TABLE", "FANOUT_RETENTION", "PUNCTUATIONS_TO_REPLACE", "Topology")

#: What names of subscriptions there may not have; dots become dashes.
PUNCTUATIONS_TO_REPLACE = set(string.punctuation) - {"_", ".", "-"}
CHARS_REPLACE_TABLE = {
    ord("."): ord("-"),
    **{ord(char): ord("_") for char in PUNCTUATIONS_TO_REPLACE},
}

#: Seconds that Pub/Sub keeps messages of a fanout exchange: the least that it allows.
FANOUT_RETENTION = 600

# The routing key in the filter of a queue's subscription.
_FILTERED_KEY = re.compile(r'attributes\.routing_key\s*=\s*"((?:[^"\\]|\\.)*)"')

logger: logging.Logger = get_logger("kombu.transport.gcpubsub")


def _seconds(value: Any) -> datetime.timedelta:
    return datetime.timedelta(seconds=float(value))


def filter_for(routing_key: str) -> str:
    """Return the filter that lets messages with ``routing_key`` through."""
    escaped = routing_key.replace("\\", "\\\\").replace('"', '\\"')
    return f'attributes.routing_key="{escaped}"'


def key_of_filter(text: Any) -> str | None:
    """Undo :func:`filter_for`; None: it is another filter, or none."""
    found = _FILTERED_KEY.fullmatch(str(text))
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


class Topology(Options):
    """A channel that makes, finds and deletes them.

    Whoever derives from it has the clients ``publisher`` and ``subscriber``, and the
    ``project_id``.
    """

    supports_fanout = True

    publisher: Any
    subscriber: Any
    project_id: Any

    # Queues by their names there; one dictionary for all channels of a connection.
    _queue_cache: dict[str, QueueDescriptor]

    @cached_property
    def _tmp_subscriptions(self) -> set[str]:
        # Deleted with the channel.
        return set()

    def entity_name(self, name: str, table: dict[int, int] = CHARS_REPLACE_TABLE) -> str:
        """Return the subscription of a queue."""
        return safe_str(f"{self.queue_name_prefix}{name}").translate(table)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Bind a queue to an exchange.

        Raises:
            ChannelError: there is no such exchange.
            NotImplementedError: it is of a type that Pub/Sub cannot do.
        """
        try:
            super().queue_bind(queue, exchange, routing_key, arguments, **kwargs)
        except BaseException:
            # What Pub/Sub refused must not count as done the next time.
            if (exchange or "amq.direct") in self.state.exchanges:
                self.queue_unbind(queue, exchange, routing_key, arguments)
            raise

    def _create_topic(
        self, project_id: str, topic_id: str, message_retention_duration: Any = None
    ) -> str:
        """Make a topic, if it is not there; returns its path.

        Arguments:
            project_id: the project.
            topic_id: its name.
            message_retention_duration: seconds that it keeps messages.
        """
        topic_path = self.publisher.topic_path(project_id, topic_id)
        if self._is_topic_exists(topic_path):
            return topic_path
        request = {"name": topic_path}
        if message_retention_duration is not None:
            request["message_retention_duration"] = _seconds(message_retention_duration)
        with suppress(AlreadyExists):  # somebody made it just now
            self.publisher.create_topic(request=request)
        return topic_path

    def _is_topic_exists(self, topic_path: str) -> bool:
        try:
            self.publisher.get_topic(request={"topic": topic_path})
        except NotFound:
            return False
        return True

    def _create_subscription(
        self,
        project_id: str | None = None,
        topic_id: str | None = None,
        topic_path: str | None = None,
        subscription_path: str | None = None,
        filter_args: dict[str, Any] | None = None,
        msg_retention: Any = None,
    ) -> str:
        """Make a subscription, or change the one that is there; returns its path.

        Arguments:
            project_id: the project, unless there are paths.
            topic_id: the topic and the subscription, unless there are paths.
            topic_path: the topic.
            subscription_path: the subscription.
            filter_args: ``{"filter": ...}``, or nothing.
            msg_retention: seconds that it keeps messages; default: ``expiration_seconds``.
        """
        if subscription_path is None:
            subscription_path = self.subscriber.subscription_path(project_id, topic_id)
        if topic_path is None:
            topic_path = self.publisher.topic_path(project_id, topic_id)
        request = {
            "name": subscription_path,
            "topic": topic_path,
            "ack_deadline_seconds": self.ack_deadline_seconds,
            "expiration_policy": {"ttl": _seconds(self.expiration_seconds)},
            "message_retention_duration": _seconds(msg_retention or self.expiration_seconds),
            "enable_exactly_once_delivery": self.enable_exactly_once_delivery,
            **(filter_args or {}),
        }
        try:
            self.subscriber.create_subscription(request=request)
        except AlreadyExists:
            self._update_subscription(request, filtered=bool(filter_args))
        return subscription_path

    def _update_subscription(self, request: dict[str, Any], filtered: bool) -> None:
        paths = [
            "ack_deadline_seconds",
            "expiration_policy.ttl",
            "message_retention_duration",
            "enable_exactly_once_delivery",
        ]
        attempts = [paths]
        if filtered:
            # A filter cannot change. Where the service refuses the whole because of it, or because
            # of a path into a field, the rest is changed without.
            attempts = [[*paths, "filter"], [path.partition(".")[0] for path in paths]]
        subscription = Subscription(request)
        for mask in attempts:
            try:
                self.subscriber.update_subscription(
                    request={"subscription": subscription, "update_mask": FieldMask(paths=mask)}
                )
                return
            except GoogleAPICallError as exc:
                error = exc
        logger.warning("subscription %s stays as it is: %s", request["name"], error)

    def _filtered_key(self, subscription_path: str) -> str | None:
        try:
            found = self.subscriber.get_subscription(request={"subscription": subscription_path})
        except GoogleAPICallError:
            return None  # not allowed to look
        return key_of_filter(found.filter)

    def _descriptor(self, queue: str) -> QueueDescriptor:
        """Where a queue is, also one that somebody else declared.

        Raises:
            ChannelError: it is nowhere.
        """
        name = self.entity_name(queue)
        known = self._queue_cache.get(name)
        if known is not None:
            return known
        path = self.subscriber.subscription_path(self.project_id, name)
        try:
            found = self.subscriber.get_subscription(request={"subscription": path})
        except NotFound:
            raise self._not_found("Basic", "queue", queue) from None
        return self._queue_cache.setdefault(
            name,
            QueueDescriptor(
                name=name,
                topic_path=found.topic,
                subscription_id=name,
                subscription_path=path,
                routing_key=key_of_filter(found.filter),
            ),
        )

    def _delete_subscription(self, subscription_path: str) -> None:
        with suppress(NotFound):
            self.subscriber.delete_subscription(request={"subscription": subscription_path})

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue."""
        known = self._queue_cache.pop(self.entity_name(queue), None)
        if known is not None:
            self._tmp_subscriptions.discard(known.subscription_path)
            self._delete_subscription(known.subscription_path)

    def after_reply_message_received(self, queue: str) -> None:
        """Have the queue deleted with the channel: late replies may still come."""
        path = self.subscriber.subscription_path(self.project_id, self.entity_name(queue))
        self._tmp_subscriptions.add(path)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        """Return the queues to put a message into, one of those that it reaches together.

        An exchange without a fitting binding here may have one elsewhere: there is a queue of its
        name then, as Kombu has it, so that topic and subscription are there.
        """
        if not exchange or exchange not in self.state.exchanges:
            return super()._lookup(exchange, routing_key, default)
        kind = self.typeof(exchange)
        queues = kind.lookup(self.get_table(exchange), exchange, routing_key, default)
        if not queues:
            if kind.type == "fanout":
                self._ensure_topic(exchange)
                return []
            self.queue_bind(exchange, exchange, routing_key)
            queues = [exchange]
        # Publishing reaches all subscriptions of a topic with that key.
        reached: dict[Any, str] = {}
        for queue in queues:
            known = self._queue_cache.get(self.entity_name(queue))
            place = queue if known is None else (known.topic_path, known.routing_key)
            reached.setdefault(place, queue)
        return list(reached.values())

    def _ensure_topic(self, exchange: str) -> None:
        known = self.connection._topics
        if exchange not in known:
            self._create_topic(self.project_id, exchange, FANOUT_RETENTION)
            known.add(exchange)
