"""What the channels of several brokers have in common beyond :mod:`kombu_rs.transport.virtual`."""

from __future__ import annotations

from queue import Empty

from .._typing import Any
from . import virtual

__all__ = ("NoAckQueues", "QueuesWithoutBindings", "WithOptions")


class WithOptions(virtual.Channel):
    """A channel that is told how to work by the options of its connection."""

    @property
    def conninfo(self) -> Any:
        """The :class:`~kombu_rs.Connection`."""
        return self.connection.client

    @property
    def transport_options(self) -> dict[str, Any]:
        """The connection's transport options."""
        return self.conninfo.transport_options


class QueuesWithoutBindings(virtual.Channel):
    """A channel that deletes queues also if they were never bound."""

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete a queue and its bindings; with ``if_empty`` only without messages."""
        if not any(self.state.queue_bindings(queue)) and not (if_empty and self._size(queue)):
            self._delete(queue)
        super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **kwargs)


class NoAckQueues(virtual.Channel):
    """A channel whose broker must be told, when a message is taken, that nobody acknowledges it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Those that are consumed without acknowledgements.
        self._noack_queues: set[str] = set()
        super().__init__(*args, **kwargs)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None:
        """Start a consumer."""
        if no_ack:
            self._noack_queues.add(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, *args, **kwargs)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer."""
        if consumer_tag in self._consumers:
            self._noack_queues.discard(self._tag_to_queue[consumer_tag])
        super().basic_cancel(consumer_tag)

    def _get(self, queue: str, timeout: float | None = None, no_ack: bool = False) -> Any:
        """Take a message. Subclasses must have it.

        Raises:
            queue.Empty: there is none.
        """
        raise NotImplementedError("Virtual channels must implement _get")

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take a message, or None."""
        try:
            message = self.Message(self._get(queue, no_ack=no_ack), channel=self)
        except Empty:
            return None
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message
