"""``transport.cycle``: the channels of a connection, as Kombu's poller has them."""

from __future__ import annotations

from collections.abc import Callable

from ..._typing import Any
from ...utils.eventio import ERR, READ

__all__ = ("MultiChannelPoller",)


class MultiChannelPoller:
    """The channels of a connection, and what is to be done for them.

    Kombu has a socket for each channel and each kind of waiting, and watches them here. The native
    core has one link and watches it itself: there is one descriptor for each connection, the same
    over reconnects, and the upkeep below goes on by itself. The methods are for programs that call
    them.
    """

    #: What to watch a descriptor for.
    eventflags = READ | ERR

    def __init__(self) -> None:
        self._channels: dict[Any, None] = {}
        #: What an event loop watches with, once it was told.
        self.poller: Any = None

    def add(self, channel: Any) -> None:
        """Take a channel in."""
        self._channels[channel] = None

    def discard(self, channel: Any) -> None:
        """Leave a channel out."""
        self._channels.pop(channel, None)

    def close(self) -> None:
        """Leave all channels out."""
        self._channels.clear()

    def _transports(self) -> list[Any]:
        open_ones = [channel.connection for channel in self._channels]
        return list(dict.fromkeys(transport for transport in open_ones if transport is not None))

    @property
    def fds(self) -> dict[int, Any]:
        """The connections by the descriptor that an event loop watches for each."""
        return {transport.fileno(): transport for transport in self._transports()}

    def get(self, callback: Callable[..., Any] | None = None, timeout: float | None = None) -> None:
        """Wait for one event and hand it to its consumer.

        Arguments:
            callback: Kombu's; not used, as consumers have their own.
            timeout: seconds; None waits for ever.

        Raises:
            socket.timeout: nothing came in time.
            queue.Empty: there is no channel.
        """
        from queue import Empty

        transports = self._transports()
        if not transports:
            raise Empty
        transports[0].drain_events(transports[0], timeout=timeout)

    def on_poll_init(self, poller: Any) -> None:
        """Note what an event loop watches with."""
        self.poller = poller

    def on_poll_start(self) -> None:
        """Nothing to do: the core asks for messages when there is room for some."""

    def on_readable(self, fileno: int) -> None:
        """Hand out what has come."""
        transport = self.fds.get(fileno)
        if transport is not None:
            transport.on_readable(None)

    def handle_event(self, fileno: int, event: int) -> None:
        """Handle what an event loop has seen on a descriptor."""
        if event & (READ | ERR):
            self.on_readable(fileno)

    def maybe_restore_messages(self) -> None:
        """Put messages back that nobody has acknowledged in time; see
        :meth:`~kombu_rs.transport.redis.QoS.restore_visible`."""
        for channel in list(self._channels):
            if channel.active_queues:
                channel.qos.restore_visible(num=channel.unacked_restore_limit)

    def maybe_refresh_binding_expiry(self) -> None:
        """Nothing to do: the core keeps the bindings of consumed queues alive."""

    def maybe_check_subclient_health(self) -> None:
        """Nothing to do: the core watches its link."""

    def maybe_check_brpop_health(self) -> None:
        """Nothing to do: the core watches its link."""

    def maybe_reauth(self) -> None:
        """Nothing to do: credentials are read when a connection is made."""
