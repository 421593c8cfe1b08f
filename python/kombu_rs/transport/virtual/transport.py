"""The transport over virtual channels; import it from :mod:`kombu_rs.transport.virtual`."""

from __future__ import annotations

from array import array
from queue import Empty
from time import monotonic, sleep

from ..._deferred import deferred
from ..._typing import TYPE_CHECKING, Any
from ...log import get_logger
from ...utils.scheduling import FairCycle
from .. import base
from .base import Channel
from .state import BrokerState

if TYPE_CHECKING:
    import logging

__all__ = ("Management", "Transport")

# Type code of an array of channel ids: AMQP has 16 bits for them.
ARRAY_TYPE_H = "H"

W_NO_CONSUMERS = "Requeuing undeliverable message for queue %r: No consumers."

logger: logging.Logger = deferred(get_logger, "kombu.transport.virtual.base")


class Management(base.Management):
    """What a virtual transport offers to manage the broker."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self.channel: Any = transport.client.channel()

    def get_bindings(self) -> list[dict[str, str]]:
        """All bindings."""
        return [
            {"destination": queue, "source": exchange, "routing_key": routing_key}
            for queue, exchange, routing_key in self.channel.list_bindings()
        ]

    def close(self) -> None:
        """Close its channel."""
        self.channel.close()


class Transport(base.Transport):
    """A transport over :class:`Channel`.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel
    Cycle = FairCycle
    Management = Management

    #: Takes the channels in turn.
    cycle: Any = None
    default_port: int | None = None
    channels: Any = None
    # What to call with a message, by queue.
    _callbacks: Any = None

    #: Seconds between looks for messages; None: look without a pause.
    polling_interval: float | None = 1.0

    #: Highest channel id.
    channel_max = 65535

    implements: base.Implements = base.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic"]),
        heartbeats=False,
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state: BrokerState = BrokerState()
        self.channels = []
        self._avail_channels: list[Any] = []
        self._callbacks = {}
        self.cycle = self.Cycle(self._drain_channel, self.channels, Empty)
        options = client.transport_options or {}
        if "polling_interval" in options:
            self.polling_interval = options["polling_interval"]
        self._used_channel_ids = array(ARRAY_TYPE_H)

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        if self._avail_channels:
            return self._avail_channels.pop()
        used = len(self._used_channel_ids)
        try:
            channel = self.Channel(connection)
        except BaseException:
            # Nobody will close it, and a broker that is down is tried often.
            del self._used_channel_ids[used:]
            raise
        self.channels.append(channel)
        return channel

    def close_channel(self, channel: Any) -> None:
        """Forget a channel."""
        try:
            if channel.channel_id in self._used_channel_ids:
                self._used_channel_ids.remove(channel.channel_id)
            if channel in self.channels:
                self.channels.remove(channel)
        finally:
            channel.connection = None

    def establish_connection(self) -> Any:
        """Connect; a channel is opened, to see whether that works."""
        self._avail_channels.append(self.create_channel(self))
        return self

    def close_connection(self, connection: Any) -> None:
        """Close all channels."""
        self.cycle.close()
        for channels in (self._avail_channels, self.channels):
            while channels:
                channels.pop().close()

    def drain_events(  # type: ignore[override]
        self, connection: Any, timeout: float | None = None
    ) -> None:
        """Deliver a message, waiting for one.

        Raises:
            socket.timeout: none came in time.
        """
        started = monotonic()
        pause = self.polling_interval
        if timeout and pause and pause > timeout:
            pause = timeout
        while True:
            try:
                self.cycle.get(self._deliver, timeout=timeout)
                return
            except Empty:
                if timeout is not None and monotonic() - started >= timeout:
                    raise TimeoutError() from None
                if pause is not None:
                    sleep(pause)

    def _deliver(self, message: Any, queue: str) -> None:
        if not queue:
            raise KeyError(f"Received message without destination queue: {message}")
        callback = self._callbacks.get(queue)
        if callback is None:
            logger.warning(W_NO_CONSUMERS, queue)
            self._reject_inbound_message(message)
        else:
            callback(message)

    def _reject_inbound_message(self, raw_message: Any) -> None:
        """Put a message back that came when its consumer had gone."""
        for channel in self.channels:
            if channel:
                message = channel.Message(raw_message, channel=channel)
                channel.qos.append(message, message.delivery_tag)
                channel.basic_reject(message.delivery_tag, requeue=True)
                break

    def on_message_ready(self, channel: Any, message: Any, queue: str) -> None:
        """Hand a message that came by other ways to the consumer of ``queue``.

        Raises:
            KeyError: it has none.
        """
        if not queue or queue not in self._callbacks:
            raise KeyError(f"Message for queue {queue!r} without consumers: {message}")
        self._callbacks[queue](message)

    def _drain_channel(self, channel: Any, callback: Any, timeout: float | None = None) -> Any:
        return channel.drain_events(callback=callback, timeout=timeout)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that are filled in when they are missing."""
        return {"port": self.default_port, "hostname": "localhost"}


# Named after the module that users import them from.
for _cls in (Management, Transport):
    _cls.__module__ = Channel.__module__
