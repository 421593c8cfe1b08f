"""Receiving messages, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from queue import Empty
from typing import Any

from ...entity import TRANSIENT_DELIVERY_MODE
from ...log import get_logger
from ...utils.objects import cached_property
from .._cloud import read_payload
from .leases import QueueDescriptor
from .topology import Topology

try:
    from google.api_core.exceptions import DeadlineExceeded
    from google.api_core.retry import Retry
except ImportError:  # the transport says so when it is used
    Retry = None

__all__ = ("Deliveries",)

logger: logging.Logger = get_logger("kombu.transport.gcpubsub")


class Deliveries(Topology):
    """A channel that receives, acknowledges and gives back."""

    # Messages whose lease ends come again by themselves.
    do_restore = False

    @cached_property
    def _fanout_exchanges(self) -> set[str]:
        return set()

    def _retry(self) -> Any:
        return Retry(timeout=float(self.retry_timeout_seconds))

    def _is_auto_ack(self, payload_properties: dict[str, Any]) -> bool:
        exchange = payload_properties["delivery_info"].get("exchange")
        return (
            payload_properties.get("delivery_mode") == TRANSIENT_DELIVERY_MODE
            or exchange in self._fanout_exchanges
            or self.state.exchanges.get(exchange, {}).get("type") == "fanout"
        )

    def _pull(self, where: QueueDescriptor, max_messages: int, timeout: Any) -> list[Any]:
        try:
            response = self.subscriber.pull(
                request={
                    "subscription": where.subscription_path,
                    "max_messages": max_messages,
                },
                retry=self._retry(),
                timeout=float(timeout),
            )
        except DeadlineExceeded:
            raise Empty() from None
        if not response.received_messages:
            raise Empty()
        return list(response.received_messages)

    def _take(self, where: QueueDescriptor, received: Any, settled: list[str]) -> dict[str, Any]:
        """Return a message; its id goes to ``settled``, or to those that are leased."""
        payload = read_payload(received.message.data, where.name)
        properties = payload["properties"]
        # A message that comes again is another delivery.
        properties["delivery_tag"] = self._next_delivery_tag()
        # Stock Kombu publishes it along when it puts a message back.
        properties["delivery_info"].pop("gcpubsub_message", None)
        if self._is_auto_ack(properties):
            settled.append(received.ack_id)
        else:
            # What an acknowledgement needs.
            properties["delivery_info"]["gcpubsub_message"] = {
                "queue": where.name,
                "ack_id": received.ack_id,
                "message_id": received.message.message_id,
                "subscription_path": where.subscription_path,
            }
            where.unacked_ids.append(received.ack_id)
        return payload

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take a message from a queue.

        Arguments:
            queue: its name.
            timeout: wait for so many seconds; default: ``wait_time_seconds``.

        Raises:
            queue.Empty: there is none.
            ChannelError: there is no such queue.
            ValueError: it is not a message of Kombu's. It comes again when its lease ends.
        """
        where = self._descriptor(queue)
        (received,) = self._pull(where, 1, timeout or self.wait_time_seconds)
        settled: list[str] = []
        payload = self._take(where, received, settled)
        if settled:
            self._do_ack(settled, where.subscription_path)
        return payload

    def _get_bulk(self, queue: str, timeout: float | None) -> tuple[str, list[dict[str, Any]]]:
        """Take messages from a queue; returns it and them.

        Arguments:
            queue: its name.
            timeout: how long the caller waits. The request waits for ``wait_time_seconds`` all
                the same: Pub/Sub would already have leased what an abandoned one was to bring.

        Raises:
            queue.Empty: there are none, or the channel may take none.
        """
        where = self._descriptor(queue)
        max_messages = self._get_max_messages_estimate()
        if not max_messages:
            raise Empty()
        settled: list[str] = []
        payloads = []
        for received in self._pull(where, max_messages, self.wait_time_seconds):
            try:
                payloads.append(self._take(where, received, settled))
            except ValueError as exc:
                # The others of them are good. It comes again when its lease ends.
                logger.error("%s (id %s)", exc, received.message.message_id)
        if settled:
            self._do_ack(settled, where.subscription_path)
        return queue, payloads

    def _get_max_messages_estimate(self) -> int:
        allowed = self.qos.can_consume_max_estimate()
        most = int(self.bulk_max_messages)
        return most if allowed is None else min(allowed, most)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> None:
        """Start a consumer."""
        on_message = callback
        if no_ack:

            def on_message(message: Any) -> Any:
                self._settle(message.delivery_info)
                return callback(message)

        super().basic_consume(queue, no_ack, on_message, consumer_tag, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take a message, or None."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if no_ack and message is not None:
            self._settle(message.delivery_info)
        return message

    # Acknowledging

    def _do_ack(self, ack_ids: list[str], subscription_path: str) -> None:
        self.subscriber.acknowledge(
            request={"subscription": subscription_path, "ack_ids": ack_ids}, retry=self._retry()
        )

    def _modify_ack_deadline(
        self, subscription_path: str, ack_ids: list[str], seconds: float
    ) -> None:
        self.subscriber.modify_ack_deadline(
            request={
                "subscription": subscription_path,
                "ack_ids": ack_ids,
                "ack_deadline_seconds": seconds,
            }
        )

    def _settle(self, delivery_info: dict[str, Any]) -> None:
        """Acknowledge a message, unless that was done when it came."""
        leased = delivery_info.get("gcpubsub_message")
        if leased:
            self._do_ack([leased["ack_id"]], leased["subscription_path"])
            self._forget(leased)

    def _forget(self, leased: dict[str, Any]) -> None:
        known = self._queue_cache.get(leased["queue"])
        if known is not None:
            known.unacked_ids.remove(leased["ack_id"])

    def _release(self, leased: dict[str, Any]) -> None:
        """End a lease: the message comes again at once."""
        self._forget(leased)
        self._modify_ack_deadline(leased["subscription_path"], [leased["ack_id"]], 0)

    def _give_back(self, delivery_infos: Iterable[dict[str, Any]]) -> None:
        """End the leases of messages that nobody will handle."""
        for delivery_info in delivery_infos:
            leased = delivery_info.get("gcpubsub_message")
            if leased:
                try:
                    self._release(leased)
                except Exception as exc:
                    # It comes again when its lease ends.
                    logger.warning("a message of %r was not given back: %r", leased["queue"], exc)

    def _settle_tag(self, delivery_tag: Any) -> None:
        try:
            delivery_info = self.qos.get(delivery_tag).delivery_info
        except KeyError:
            return
        self._settle(delivery_info)

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery; with ``multiple`` those before it too."""
        if multiple:
            for tag in self.qos.tags_before(delivery_tag):
                self.basic_ack(tag)
        self._settle_tag(delivery_tag)
        super().basic_ack(delivery_tag)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery: it is dropped; with ``requeue`` it comes again."""
        if not requeue:
            self._settle_tag(delivery_tag)
        super().basic_reject(delivery_tag, requeue=requeue)

    def _restore(self, message: Any) -> None:
        leased = message.delivery_info.get("gcpubsub_message")
        if leased:
            self._release(leased)
        else:
            super()._restore(message)
