"""Transports of the native core: one class for all, told apart by the URL.

``kombu_rs.transport.native:Transport`` takes any URL that the core knows; the modules beside
this one (``memory``, ``redis``, ``sqlalchemy``) say what is special to theirs.
"""

from __future__ import annotations

from collections import defaultdict

from .. import _native
from .._typing import Any, NamedTuple
from ..exceptions import (
    BrokerConnectionError,
    ChannelError,
    ConnectionError,
    ConnectionLimitExceeded,
)
from ..message import Message
from ..utils.url import maybe_sanitize_url, safequote
from . import _at_exit, base

__all__ = ("Channel", "QoS", "Statistics", "Transport", "queue_declare_ok_t")

QoS = _native.QoS

#: Options that Kombu keeps with the transport's but that say how a connection is made.
CONNECTION_OPTIONS = frozenset(
    {
        "max_retries",
        "interval_start",
        "interval_step",
        "interval_max",
        "errback",
        "callback",
        "connect_retries_timeout",
        "timeout",
        "retry_errors",
    }
)

#: Options of channels and transports, which the core does not see.
CHANNEL_OPTIONS = frozenset({"body_encoding", "deadletter_queue", "polling_interval"})


class queue_declare_ok_t(NamedTuple):
    """What :meth:`Channel.queue_declare` returns."""

    queue: str
    message_count: int
    consumer_count: int


class Statistics(NamedTuple):
    """What :meth:`Transport.statistics` returns.

    All but the last three count from when the transport was first used, over all its links; a
    forked child's start at zero. What a transport does not do stays 0.
    """

    #: Messages put into queues: one that goes to three queues counts three times, a fanout message
    #: once.
    published: int
    #: Messages taken from queues, those fetched ahead included.
    received: int
    #: Messages acknowledged.
    acked: int
    #: Messages rejected, whether they were queued again or not.
    rejected: int
    #: Messages given back unsettled: by recovering, cancelling a consumer, or closing a channel.
    returned: int
    #: Messages of consumers that are gone, put back into their queues by this transport.
    restored: int
    #: Leases renewed, one for each message and renewal (Redis).
    renewed: int
    #: Links made after the first one (Redis).
    reconnects: int
    #: Times that the transport was woken for messages that other consumers had taken (Redis).
    empty_wake_ups: int
    #: Scripts that the broker has run (Redis).
    script_calls: int
    #: Seconds from sending those scripts to their answers, altogether.
    script_seconds: float
    #: Messages delivered and not settled, now.
    unacked: int
    #: For how many seconds the oldest of them has been so; None when there is none.
    oldest_unacked_seconds: float | None
    #: Messages fetched ahead and not delivered yet, now.
    prefetched: int


class Replaceable:
    """What native code goes around unless a derived class, or an object, has its own.

    Native code asks once for each version of a class, so a method that is replaced in a class (as
    ``mock.patch`` does) is called from then on.
    """

    #: Names of attributes and methods that native code does not look up.
    _gone_around: frozenset[str] = frozenset()
    #: The class that has the native ones.
    _native_class: type

    # Those that the object has in the place of its class's.
    _replaced: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in self._gone_around:
            object.__setattr__(self, "_replaced", self._replaced | {name})
            self._on_replaced(name)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        if name in self._replaced:
            object.__setattr__(self, "_replaced", self._replaced - {name})

    def _on_replaced(self, name: str) -> None:
        self._hooked()  # type: ignore[attr-defined]

    def _has_own(self, names: frozenset[str]) -> bool:
        """Whether the object or its class has one of ``names``, all of :attr:`_gone_around`."""
        if self._is_plain():  # type: ignore[attr-defined]
            return False
        if not names.isdisjoint(self._replaced):
            return True
        own, cls = self._native_class, type(self)
        return any(getattr(cls, name, None) is not getattr(own, name) for name in names)


def as_it_is(cls: Any) -> type:
    """A class with what ``cls`` has now of what native code goes around.

    As ``_native_class`` it tells when a program replaces a method of ``cls`` itself, too.
    """
    names = (*cls._gone_around, "_gone_around")
    return type(cls.__name__, (), {name: getattr(cls, name) for name in names})


class Channel(_native.Channel, Replaceable, base.StdChannel):  # type: ignore[misc]
    """A channel of a native transport."""

    _gone_around = frozenset({"basic_publish", "prepare_message", "basic_ack", "message_to_python"})

    Message = Message
    QoS = QoS

    #: The transport; None when the channel was closed.
    connection: Any

    #: How bodies are written in the broker: ``"base64"``, or None for text as it is.
    body_encoding: str | None = "base64"
    #: Put unacknowledged messages back when the channel is closed.
    do_restore = True
    default_priority = 0
    min_priority = 0
    max_priority = 9

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        #: Functions to call on events of the channel, such as ``basic_return``.
        self.events: dict[str, set[Any]] = defaultdict(set)
        options = getattr(connection.client, "transport_options", None) or {}
        if "body_encoding" in options:
            self.body_encoding = options["body_encoding"]
        connection._add_channel(self)
        connection.channels.append(self)
        _at_exit.remember(self)

    @property
    def supports_fanout(self) -> bool:
        """Whether fanout exchanges reach other processes."""
        return "fanout" in self.connection.implements.exchange_type

    @property
    def qos(self) -> Any:
        """The prefetch limit and the unacknowledged messages."""
        return self.QoS(self)

    def queue_declare(self, *args: Any, **kwargs: Any) -> queue_declare_ok_t:
        """Declare a queue.

        Arguments:
            queue: its name; made up when it is empty.
            passive: raise when the queue does not exist, instead of making it.
            durable, exclusive, auto_delete, nowait, arguments: as in AMQP.

        Raises:
            ChannelError: it is not there (``passive``), with code 404.
        """
        return queue_declare_ok_t(*self._queue_declare(*args, **kwargs))

    def depth(self, queue: str) -> dict[int, int]:
        """Ask the broker how many messages are ready in a queue.

        Returns:
            Messages by priority, the most urgent first. On Redis these are the steps that it tells
            apart (0, 3, 6 and 9 by default); where there are no priorities all are under 0.

        Raises:
            BrokerConnectionError: the broker is not there.
        """
        return self.connection._depth(queue)

    def close(self) -> None:
        """Close the channel: consumers end, unacknowledged messages go back to their queues."""
        transport = self.connection
        if transport is None:
            return
        try:
            self._close(self.do_restore)
        finally:
            _at_exit.forget(self)
            transport._forget_channel(self)
            self.connection = None


Channel._native_class = Channel


class Transport(_native.Transport, Replaceable, base.Transport):  # type: ignore[misc]
    """A transport of the native core, for any URL that it knows.

    Stock Kombu takes it as ``transport="kombu_rs.transport:Transport"``; see also
    :func:`kombu_rs.register`.
    """

    Channel = Channel

    _gone_around = frozenset({"drain_events"})

    #: Whether the connection leaves the whole URL to us.
    can_parse_url = True
    #: What stands before ``://`` when the connection takes the URL apart.
    scheme: str | None = None

    default_port: int | None = None
    driver_type = "kombu-rs"
    driver_name = "kombu-rs"

    connection_errors: tuple[type[BaseException], ...] = (
        ConnectionError,
        BrokerConnectionError,
        ConnectionLimitExceeded,
        OSError,
        EOFError,
    )
    channel_errors = (ChannelError,)

    implements = base.Transport.implements.extend(asynchronous=True, batch_publish=True)

    #: Seconds between polls, for transports that must poll: ours do not.
    polling_interval: float | None = None

    def __new__(cls, client: Any = None, **kwargs: Any) -> Any:
        if cls is Transport and _speaks_amqp(getattr(client, "hostname", None) or ""):
            from .amqp.transport import WholeUrlTransport

            return WholeUrlTransport(client, **kwargs)
        return super().__new__(cls, client, **kwargs)

    def __init__(self, client: Any = None, **kwargs: Any) -> None:
        #: Open channels.
        self.channels: list[Any] = []
        self._loop: Any = None

    @classmethod
    def _parameters(cls, client: Any) -> tuple[str, dict[str, Any]]:
        """The URL to open and the transport options, from a connection's attributes."""
        options = {
            name: value
            for name, value in (getattr(client, "transport_options", None) or {}).items()
            if name not in CONNECTION_OPTIONS and name not in CHANNEL_OPTIONS
        }
        if getattr(client, "ssl", None):
            options.setdefault("ssl", _plain_ssl(client.ssl))
        timeout = getattr(client, "connect_timeout", None)
        if timeout and cls.takes_connect_timeout(client):
            options.setdefault("socket_connect_timeout", timeout)
        return cls._url(client), options

    @classmethod
    def takes_connect_timeout(cls, client: Any) -> bool:
        """Whether ``connect_timeout`` means something to the transport: it has a link."""
        return cls._url(client).startswith("redis")

    @classmethod
    def _url(cls, client: Any) -> str:
        hostname = getattr(client, "hostname", None) or ""
        if "://" in hostname:
            return hostname
        scheme = cls.scheme
        if scheme is None:
            raise ValueError(
                f"{cls.__module__}.{cls.__name__} needs a URL such as redis://host/0, "
                f"got the host {hostname!r}"
            )
        return cls._assembled(client, scheme)

    @classmethod
    def _assembled(cls, client: Any, scheme: str) -> str:
        """A URL made of a connection's attributes."""
        hostname = getattr(client, "hostname", None) or ""
        password = getattr(client, "password", None)
        if callable(password):
            password = password()
        userid = getattr(client, "userid", None)
        credentials = ""
        if userid or password:
            credentials = safequote(userid or "")
            if password:
                credentials += ":" + safequote(str(password))
            credentials += "@"
        if ":" in hostname:
            hostname = f"[{hostname}]"
        elif "/" in hostname:
            hostname = safequote(hostname)
        port = getattr(client, "port", None) or cls.default_port
        vhost = getattr(client, "virtual_host", None)
        path = safequote(str(vhost)) if vhost not in (None, "", "/") else ""
        return f"{scheme}://{credentials}{hostname}{f':{port}' if port else ''}/{path}"

    def establish_connection(self) -> Any:
        """Connect within the connection's ``connect_timeout``.

        Raises:
            BrokerConnectionError: the broker is not there, or refused us.
        """
        timeout = getattr(self.client, "connect_timeout", None) or None
        left = _native.budget()  # of a publish with a timeout
        if left is not None:
            timeout = max(left, 0.0) if timeout is None else min(timeout, max(left, 0.0))
        try:
            self._connect(timeout)
        except TimeoutError:
            where = maybe_sanitize_url(self._url(self.client))
            raise BrokerConnectionError(
                f"cannot connect to {where} within {timeout:.3g} s"
            ) from None
        return self

    def await_broker(self, seconds: float) -> bool | None:
        """Wait until a broker that could not be reached is connected to, ``seconds`` at most.

        Returns:
            True: it is connected. False: it still cannot be reached. None: there is no use in
            waiting for it, as it refuses us, or it is not known how to connect.
        """
        return self._await_broker(seconds)

    def close_connection(self, connection: Any) -> None:
        """Close the channels and the link."""
        self._leave_loop()
        for channel in list(self.channels):
            try:
                channel.close()
            except self.connection_errors + self.channel_errors:
                pass
        self._close()

    def _collect(self, connection: Any) -> None:
        """Give the link up without talking to the broker."""
        self._leave_loop()
        for channel in list(self.channels):
            self._forget_channel(channel)
        self._abandon()

    def statistics(self) -> Statistics:
        """Return what was done over this transport, and what it holds. Does not ask the broker."""
        return Statistics(**self._statistics())

    def _forget_channel(self, channel: Any) -> None:
        self._remove_channel(channel)
        if channel in self.channels:
            self.channels.remove(channel)

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        return self.Channel(connection)

    def close_channel(self, channel: Any) -> None:
        """Close a channel."""
        channel.close()

    def verify_connection(self, connection: Any) -> bool:
        """Whether the link is there, as far as known without asking."""
        return connection._is_connected()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have ``loop`` watch the transport's descriptor; it stays the same over reconnects."""
        self._loop = loop
        loop.add_reader(self.fileno(), self.on_readable, loop)
        self._set_event_loop(True)  # rings: the first turn finds out what there is to watch

    def _leave_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            self._set_event_loop(False)
            loop.remove_reader(self.fileno())

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        return uri if include_password else maybe_sanitize_url(uri, mask=mask)

    def driver_version(self) -> str:
        """Version of the native core."""
        from .. import __version__

        return __version__

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that are filled in when they are missing."""
        return {"hostname": "localhost", "port": self.default_port}


Transport._native_class = Transport


def _speaks_amqp(url: str) -> bool:
    """Whether it is for the transport of brokers that speak AMQP themselves."""
    scheme, _, rest = url.partition("://")
    return bool(rest or "://" in url) and scheme in ("amqp", "amqps", "pyamqp", "librabbitmq")


def _plain_ssl(ssl: Any) -> Any:
    """TLS settings without the ssl module's enums."""
    if not isinstance(ssl, dict):
        return bool(ssl)
    return {
        name: int(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in ssl.items()
    }
