"""``amqp://``, ``amqps://``, ``pyamqp://``, ``librabbitmq://``: RabbitMQ and relatives, natively.

One link for each connection, shared by any number of threads. Heartbeats are sent and missed ones
are noticed by a native thread, whatever Python does meanwhile. Channels and messages look as
py-amqp's do; py-amqp itself is not needed.

Transport options are the arguments of :class:`Connection`: among others ``confirm_publish`` (wait
for the broker's word for each message), ``read_timeout`` and ``write_timeout`` (seconds),
``login_method``, ``client_properties``, ``channel_max``, ``frame_max``, ``heartbeat``,
``socket_settings``, ``on_blocked`` and ``on_unblocked``.
"""

from __future__ import annotations

from .channel import Channel, Message
from .connection import Connection
from .message import BasicMessage
from .statistics import Statistics
from .transport import DEFAULT_PORT, DEFAULT_SSL_PORT, SSLTransport, Transport

__all__ = (
    "DEFAULT_PORT",
    "DEFAULT_SSL_PORT",
    "BasicMessage",
    "Channel",
    "Connection",
    "Message",
    "SSLTransport",
    "Statistics",
    "Transport",
)
