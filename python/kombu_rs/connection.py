"""Connections to a broker, and pools of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from operator import itemgetter
from time import monotonic
from types import TracebackType

from . import _native, exceptions
from ._deferred import deferred, deferred_module
from ._typing import TYPE_CHECKING, Any
from .broker_url import _check_url_options, _check_url_transport, _scheme, _seconds, _split_hosts
from .log import get_logger
from .resource import Resource as Resource  # Kombu's users find it here
from .retry import Retrying
from .transport import get_transport_cls, supports_librabbitmq
from .utils.collections import HashedSeq
from .utils.functional import dictfilter, retry_over_time, shufflecycle
from .utils.objects import cached_property
from .utils.url import as_url, maybe_sanitize_url, parse_url

if TYPE_CHECKING:
    import logging
    import socket
    from typing import TypeGuard

    from typing_extensions import Self

    from . import messaging, simple
    from .asynchronous.hub import Hub
    from .entity import Queue
    from .protocols import Channel, ChannelOrConnection, Errback, ExceptionTypes, Queues
    from .transport.base import Management, Transport

__all__ = ("Connection", "ConnectionPool", "ChannelPool")

if not TYPE_CHECKING:  # needed when a connection is given up
    socket = deferred_module("socket")

logger: logging.Logger = deferred(get_logger, "kombu.connection")

roundrobin_failover = cycle

# Names of one and the same protocol; what `info()` shows.
resolve_aliases: dict[str, str] = {"pyamqp": "amqp", "librabbitmq": "amqp"}

failover_strategies: dict[str, Callable[[Any], Iterator[str]]] = {
    "round-robin": roundrobin_failover,
    "shuffle": shufflecycle,
}

if os.environ.get("KOMBU_LOG_DEBUG"):
    from .utils import debug

    os.environ.update(KOMBU_LOG_CHANNEL="1", KOMBU_LOG_CONNECTION="1")
    debug.setup_logging()

_log_connection = os.environ.get("KOMBU_LOG_CONNECTION", False)
_log_channel = os.environ.get("KOMBU_LOG_CHANNEL", False)


class Connection(_native.Connection, Retrying):
    """A connection to a broker, opened when it is first needed.

    Arguments:
        hostname: a host, or a URL ``transport://user:password@host:port/vhost?option=value``,
            or several of them: a list, or text with ``;`` between. The others are used when
            the first cannot be reached.
        userid, password, virtual_host, port: parts that the URL does not have. The password may
            be a function that returns it.
        insist: passed to the transport.
        ssl: True, or a dictionary of options: use TLS.
        transport: a transport's name, ``"module:Class"``, or the class.
        connect_timeout: seconds until connecting gives up. Default 5.
        transport_options: options of the transport, and how to reconnect: ``max_retries``,
            ``interval_start``, ``interval_step``, ``interval_max``, ``errback``, ``callback``,
            ``connect_retries_timeout``.
        login_method: how to log in, where there is a choice.
        uri_prefix: shown in front of the URL.
        heartbeat: seconds between heartbeats; 0: none.
        failover_strategy: order of the alternates: ``"round-robin"`` (default), ``"shuffle"``, or
            a function from the list to an iterator.
        alternates: further URLs.
        credential_provider: makes the credentials: on Redis and AMQP, an object with
            ``get_credentials()`` as redis-py has them, or the name of its class.

    Raises:
        ValueError, TypeError: a part or option of the URL is not understood.
        KeyError: there is no such transport.
    """

    port: int | None = None
    virtual_host: str = "/"
    connect_timeout: float | None = 5

    _closed: bool | None = None
    _connection: Any = None
    _default_channel: Any = None
    _transport: Any = None
    _logger: Any = False
    uri_prefix: str | None = None

    # Hashes of what was declared since the connection was opened.
    declared_entities: set[Any] | None = None
    # Iterates over the alternates; None when there are none.
    cycle: Any = None
    transport_options: Any = None
    failover_strategy: Any = "round-robin"
    heartbeat: float | None = None

    resolve_aliases = resolve_aliases
    failover_strategies = failover_strategies

    hostname: str | None = None
    userid: str | None = None
    password: Any = None
    ssl: Any = None
    login_method: str | None = None

    def __init__(
        self,
        hostname: str | Iterable[str] | None = "localhost",
        userid: str | None = None,
        password: str | Callable[[], str] | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        insist: bool = False,
        ssl: bool | dict[str, Any] | None = False,
        transport: str | type[Transport] | None = None,
        connect_timeout: float | None = 5,
        transport_options: dict[str, Any] | None = None,
        login_method: str | None = None,
        uri_prefix: str | None = None,
        heartbeat: float | None = 0,
        failover_strategy: str | Callable[[Any], Iterator[str]] | None = "round-robin",
        alternates: Iterable[str] | None = None,
        credential_provider: Any = None,
        **kwargs: Any,
    ) -> None:
        alt = list(alternates or [])
        # Given as they are on a failover, and when nothing else says otherwise.
        self._initial_params: dict[str, Any] = {
            "hostname": hostname if hostname is None else "localhost",
            "userid": userid,
            "password": password,
            "virtual_host": virtual_host,
            "port": port,
            "insist": insist,
            "ssl": ssl,
            "transport": transport,
            "connect_timeout": connect_timeout,
            "login_method": login_method,
            "heartbeat": heartbeat,
            "credential_provider": credential_provider,
        }
        params = dict(self._initial_params)

        hosts = _split_hosts(hostname)
        if len(hosts) > 1:
            alt.extend(hosts)
        for url in alt:
            if "://" in url:
                _check_url_transport(_scheme(url))
        if hosts:
            params["hostname"] = hosts[0]
            if "://" in hosts[0]:
                self._parse_url(hosts[0], transport, params)
        self._initial_params = params
        if uri_prefix is not None:
            self.uri_prefix = uri_prefix
        self._init_params(**params)

        self.alt = alt
        self._failover_strategy = failover_strategy or "round-robin"
        strategy = self._failover_strategy
        self.failover_strategy = (
            self.failover_strategies.get(strategy, strategy)
            if isinstance(strategy, str)
            else strategy
        )
        if self.alt:
            if not callable(self.failover_strategy):
                raise ValueError(
                    f"Unknown failover_strategy {strategy!r}: use one of "
                    f"{', '.join(sorted(self.failover_strategies))}, or a function"
                )
            self.cycle = self.failover_strategy(self.alt)
            next(self.cycle)  # the first is the one in use
        self.transport_options = {} if transport_options is None else transport_options
        if _log_connection:
            self._logger = True
        self.declared_entities = set()

    def _parse_url(self, url: str, transport: Any, params: dict[str, Any]) -> None:
        """Put the parts of ``url`` into ``params``; leave it whole for a transport that wants it.

        ``transport+url://...`` names the transport apart from the URL's own scheme, which the
        transport then reads itself: ``sqla+sqlite:///file``, ``redis+socket:///path``.
        """
        scheme = url[: url.index("://")]
        if "+" in scheme:
            prefix, rest = url.split("+", 1)
            self.uri_prefix = _check_url_transport(prefix)
            params["transport"], params["hostname"] = prefix, rest
            return
        transport = transport or _check_url_transport(scheme.lower())
        params["transport"] = transport
        if get_transport_cls(transport).can_parse_url:
            return
        parsed = parse_url(url)
        parsed.pop("transport", None)
        _check_url_options(parsed)
        params.update(dictfilter(parsed), hostname=parsed["hostname"])

    def switch(self, conn_str: str) -> None:
        """Use another broker from now on; closes the connection.

        Arguments:
            conn_str: a URL, or a host.
        """
        if "://" in conn_str:
            _check_url_transport(_scheme(conn_str))
        self.close()
        self.declared_entities.clear()  # type: ignore[union-attr]
        self._closed = False
        params = dict(self._initial_params, hostname=conn_str)
        if "://" in conn_str:
            self.uri_prefix = None
            self._parse_url(conn_str, None, params)
        self._forget_transport()
        self._init_params(**params)

    def _forget_transport(self) -> None:
        """Drop what was looked up on the transport's class: the next one may be another."""
        for name in (
            "recoverable_connection_errors",
            "recoverable_channel_errors",
            "connection_errors",
            "channel_errors",
            "manager",
        ):
            self.__dict__.pop(name, None)

    def maybe_switch_next(self) -> None:
        """Use the next alternate, if there are any."""
        if self.cycle:
            self.switch(next(self.cycle))

    def _init_params(
        self,
        hostname: Any,
        userid: Any,
        password: Any,
        virtual_host: Any,
        port: Any,
        insist: Any,
        ssl: Any,
        transport: Any,
        connect_timeout: Any,
        login_method: Any,
        heartbeat: Any,
        credential_provider: Any = None,
    ) -> None:
        transport = transport or "amqp"
        if transport == "amqp" and supports_librabbitmq():
            transport = "librabbitmq"
        if isinstance(port, str):
            try:
                port = int(port)
            except ValueError:
                raise ValueError(f"port must be a number, got {port!r}") from None
        self.hostname = hostname
        self.userid = userid
        self.password = password
        self.login_method = login_method
        self.virtual_host = virtual_host or self.virtual_host
        self.port = port or self.port
        self.insist = insist
        self.connect_timeout = _seconds("connect_timeout", connect_timeout)
        self.ssl = ssl
        self.transport_cls = transport
        self.heartbeat = heartbeat and float(_seconds("heartbeat", heartbeat))  # type: ignore[arg-type]
        self.credential_provider = credential_provider

    def register_with_event_loop(self, loop: Hub) -> None:
        """Have ``loop`` (a Hub) watch this connection."""
        self.transport.register_with_event_loop(self.connection, loop)

    def _debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if self._logger:
            logger.debug(f"[Kombu connection:{id(self):#x}] {msg}", *args, **kwargs)

    def connect(self) -> Any:
        """Connect now, and return the transport's connection.

        Raises:
            Exception: the transport's own error, when the broker cannot be reached.
        """
        self._closed = False
        return self._ensure_connection(max_retries=1, reraise_as_library_errors=False)

    def channel(self) -> Channel:
        """Open and return a channel."""
        self._debug("create channel")
        chan: Channel = self.transport.create_channel(self.connection)
        if _log_channel:
            from .utils.debug import Logwrapped

            chan = Logwrapped(chan, "kombu.channel", f"[Kombu channel:{chan.channel_id}] ")
        return chan

    def heartbeat_check(self, rate: int = 2) -> Any:
        """Send heartbeats that are due, and see whether the broker's came.

        Arguments:
            rate: how often this is called per heartbeat interval.
        """
        return self.transport.heartbeat_check(self.connection, rate=rate)

    def maybe_close_channel(self, channel: Channel) -> None:
        """Close a channel; connection and channel errors are ignored."""
        try:
            channel.close()
        except self.connection_errors + self.channel_errors:
            pass

    def _do_close_self(self) -> None:
        # The broker forgets what dies with a connection: declare anew next time.
        self.declared_entities.clear()  # type: ignore[union-attr]
        if self._default_channel:
            self.maybe_close_channel(self._default_channel)
        if self._connection:
            ignored: ExceptionTypes = (*self.connection_errors, AttributeError, OSError)
            with suppress(*ignored):
                self.transport.close_connection(self._connection)
            self._connection = None

    def _close(self) -> None:
        """Close the connection, also when it belongs to a pool."""
        self._closed = True
        self._do_close_self()
        self._do_close_transport()
        self._debug("closed")
        self._closed = True

    def _do_close_transport(self) -> None:
        if self._transport:
            self._transport.client = None
            self._transport = None

    def collect(self, socket_timeout: float | None = None) -> None:
        """Give the link up without talking to the broker: it may be gone.

        Arguments:
            socket_timeout: where the transport must talk, wait so many seconds at most.
        """
        transport = self._transport
        gc_transport = getattr(transport, "_collect", None)
        if gc_transport is not None:
            gc_transport(self._connection)
        else:
            previous = socket.getdefaulttimeout()
            socket.setdefaulttimeout(socket_timeout)
            try:
                self._do_close_self()
            except TimeoutError:
                pass
            finally:
                socket.setdefaulttimeout(previous)
        self._do_close_transport()
        self.declared_entities.clear()  # type: ignore[union-attr]
        self._connection = None

    def release(self) -> None:
        """Close the connection, or give it back to its pool."""
        self._close()

    close = release

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Self:
        """Connect, trying again as long as the broker cannot be reached.

        Arguments:
            errback: called with ``(exc, interval)`` before each wait.
            max_retries: give up after so many further tries. Default: never.
            interval_start: seconds of the first wait. Default 2.
            interval_step: each wait is so much longer. Default 2.
            interval_max: but no longer than this. Default 30.
            callback: called every second of a wait.
            reraise_as_library_errors: raise OperationalError instead of the transport's own.
                Default True.
            timeout: give up after so many seconds. Default: never.

        Raises:
            OperationalError: gave up.
        """
        self._ensure_connection(*args, **kwargs)
        return self

    def _ensure_connection(
        self,
        errback: Errback | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        callback: Callable[[], Any] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: float | None = None,
    ) -> Any:
        if self.connected:
            return self._connection
        left = self._budget()
        if left is not None:
            timeout = min(timeout or left, left)
        end = monotonic() + timeout if timeout else None

        def on_error(
            exc: Exception, intervals: Iterator[float], retries: int, interval: float = 0
        ) -> float:
            tried_all = self.completes_cycle(retries)
            if tried_all:
                interval = next(intervals)
            try:
                if errback:
                    errback(exc, interval)
            finally:
                self.maybe_switch_next()
            if not tried_all:
                return 0
            pause = min(interval, interval_max)
            if end is not None:
                pause = min(pause, end - monotonic())
            if not isinstance(exc, self.recoverable_connection_errors):
                return pause  # not for want of a broker
            return self._await_broker(pause, callback)

        guard = (
            self._reraise_as_cannot_connect if reraise_as_library_errors else self._dummy_context
        )
        with guard():
            return retry_over_time(
                self._connection_factory,
                self.recoverable_connection_errors,
                (),
                {},
                on_error,
                max_retries,
                interval_start,
                interval_step,
                interval_max,
                callback,
                timeout=timeout,
            )

    def completes_cycle(self, retries: int) -> bool:
        """Whether all alternates were tried after so many retries."""
        return not (retries + 1) % len(self.alt) if self.alt else True

    def revive(self, new_channel: Channel) -> None:
        """Go on after a reconnect: the default channel is opened anew."""
        old = self._default_channel
        if old and new_channel is not old:
            self.maybe_close_channel(old)
            self._default_channel = None

    def create_transport(self) -> Transport:
        """Make the transport."""
        return self.get_transport_cls()(client=self)

    def get_transport_cls(self) -> type[Transport]:
        """The class of the transport."""
        transport_cls: Any = self.transport_cls
        if not isinstance(transport_cls, type):
            transport_cls = get_transport_cls(transport_cls)
        # Any class will do for a transport; of ours each has this method.
        if isinstance(transport_cls, type) and hasattr(transport_cls, "class_for"):
            return transport_cls.class_for(self)
        return transport_cls

    def clone(self, **kwargs: Any) -> Self:
        """Return a new connection with the same settings, except those given."""
        return self.__class__(**dict(self._info(resolve=False), **kwargs))

    def get_heartbeat_interval(self) -> float:
        """Seconds between heartbeats, as agreed with the broker."""
        return self.transport.get_heartbeat_interval(self.connection)

    def _info(self, resolve: bool = True) -> tuple[tuple[str, Any], ...]:
        transport_cls = self.transport_cls
        if resolve:
            transport_cls = self.resolve_aliases.get(transport_cls, transport_cls)
            default = self.transport.default_connection_params
        else:
            default = {}
        hostname = self.hostname
        usual = None if hostname else self.transport.default_connection_params.get("hostname")
        if usual:
            logger.warning("No hostname was supplied. Reverting to default %r", usual)
            hostname = usual
        if self.uri_prefix:
            hostname = f"{self.uri_prefix}+{hostname}"
        return (
            ("hostname", hostname),
            ("userid", self.userid or default.get("userid")),
            ("password", self.password or default.get("password")),
            ("virtual_host", self.virtual_host or default.get("virtual_host")),
            ("port", self.port or default.get("port")),
            ("insist", self.insist),
            ("ssl", self.ssl or default.get("ssl", self.ssl)),
            ("transport", transport_cls),
            ("connect_timeout", self.connect_timeout),
            ("transport_options", self.transport_options),
            ("login_method", self.login_method or default.get("login_method")),
            ("uri_prefix", self.uri_prefix),
            ("heartbeat", self.heartbeat),
            ("failover_strategy", self._failover_strategy),
            ("alternates", self.alt),
            ("credential_provider", self.credential_provider),
        )

    def info(self) -> dict[str, Any]:
        """The settings, with the transport's defaults filled in. Holds the password."""
        return dict(self._info())

    def __eqhash__(self) -> HashedSeq:
        # Equal for connections to the same place with the same options: pools are kept by it.
        return HashedSeq(
            self.transport_cls,
            self.hostname,
            self.userid,
            self.password,
            self.virtual_host,
            self.port,
            repr(self.transport_options),
        )

    def as_uri(
        self,
        include_password: bool = False,
        mask: str = "**",
        getfields: Any = itemgetter("port", "userid", "password", "virtual_host", "transport"),
    ) -> str:
        """The connection as a URL.

        Arguments:
            include_password: show the password. Default: the mask.
            mask: shown instead.
        """
        uri = self.hostname or "localhost"
        if self.uri_prefix:
            uri = f"{self.uri_prefix}+{uri}"
            return uri if include_password else maybe_sanitize_url(uri, mask=mask)
        transport_cls = self.get_transport_cls()
        if transport_cls.can_parse_url and "://" in uri:
            return self.transport.as_uri(uri, include_password, mask)
        from urllib.parse import quote

        info = self.info()
        port, userid, password, virtual_host, transport = getfields(info)
        if callable(password):
            password = password() if include_password else mask
        return as_url(
            transport,
            info["hostname"] or "localhost",
            port,
            userid,
            password,
            quote(virtual_host),
            sanitize=not include_password,
            mask=mask,
        )

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:
        """A pool of connections like this one.

        Arguments:
            limit: how many; None: no limit.
            preload: how many to make at once. Default 0.
        """
        return ConnectionPool(self, limit, **kwargs)

    def ChannelPool(self, limit: int | None = None, **kwargs: Any) -> ChannelPool:
        """A pool of channels of this connection; arguments as :meth:`Pool`."""
        return ChannelPool(self, limit, **kwargs)

    def Producer(
        self, channel: ChannelOrConnection | None = None, *args: Any, **kwargs: Any
    ) -> messaging.Producer:
        """A :class:`~kombu_rs.Producer` on ``channel``, by default on the default channel."""
        from .messaging import Producer

        return Producer(channel or self, *args, **kwargs)

    def Consumer(
        self,
        queues: Queues | None = None,
        channel: ChannelOrConnection | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> messaging.Consumer:
        """A :class:`~kombu_rs.Consumer` on ``channel``, by default on the default channel."""
        from .messaging import Consumer

        return Consumer(channel or self, queues, *args, **kwargs)

    def SimpleQueue(
        self,
        name: str | Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        channel: ChannelOrConnection | None = None,
        **kwargs: Any,
    ) -> simple.SimpleQueue:
        """A queue with ``put`` and ``get``: see :class:`kombu_rs.simple.SimpleQueue`."""
        from .simple import SimpleQueue

        return SimpleQueue(
            channel or self, name, no_ack, queue_opts, queue_args, exchange_opts, **kwargs
        )

    def SimpleBuffer(
        self,
        name: str | Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        channel: ChannelOrConnection | None = None,
        **kwargs: Any,
    ) -> simple.SimpleBuffer:
        """A queue that may lose messages: see :class:`kombu_rs.simple.SimpleBuffer`."""
        from .simple import SimpleBuffer

        return SimpleBuffer(
            channel or self, name, no_ack, queue_opts, queue_args, exchange_opts, **kwargs
        )

    def _establish_connection(self) -> Any:
        self._debug("establishing connection...")
        conn = self.transport.establish_connection()
        self._debug("connection established: %r", self)
        return conn

    def supports_exchange_type(self, exchange_type: str) -> bool:
        """Whether the transport has that type of exchange."""
        return exchange_type in self.transport.implements.exchange_type

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()} at {id(self):#x}>"

    def __copy__(self) -> Self:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        # As given, not as resolved: an unpickled connection belongs into the same pool.
        return self.__class__, tuple(value for _, value in self._info(resolve=False)), None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def qos_semantics_matches_spec(self) -> bool:
        """Whether ``apply_global`` of QoS means what AMQP 0-9-1 says."""
        return self.transport.qos_semantics_matches_spec(self.connection)

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return (
            not self._closed
            and self._connection is not None
            and self.transport.verify_connection(self._connection)
        )

    @property
    def connection(self) -> Any:
        """The transport's connection, opened if need be; None when this one was closed."""
        if not self._closed:
            if not self.connected:
                return self._ensure_connection(max_retries=1, reraise_as_library_errors=False)
            return self._connection
        return None

    def _connection_factory(self) -> Any:
        self.declared_entities.clear()  # type: ignore[union-attr]
        self._default_channel = None
        self._connection = self._establish_connection()
        self._closed = False
        return self._connection

    @property
    def default_channel(self) -> Channel:
        """A channel that is opened, and opened anew, when it is used.

        Raises:
            OperationalError: the broker cannot be reached. ``connect_timeout``, or
                ``connect_retries_timeout`` and the other transport options, say how long it
                tries.
        """
        self._ensure_connection(**self._extract_failover_opts())
        if self._default_channel is None:
            self._default_channel = self.channel()
        return self._default_channel

    @property
    def host(self) -> str:
        """``host:port``."""
        return ":".join([self.hostname or "", str(self.port)])

    @property
    def transport(self) -> Transport:
        """The transport, made when it is first needed."""
        if self._transport is None:
            self._transport = self.create_transport()
        return self._transport

    @cached_property
    def manager(self) -> Management:
        """What the transport offers to manage the broker."""
        return self.transport.manager

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """A new :attr:`manager`."""
        return self.transport.get_manager(*args, **kwargs)

    @cached_property
    def recoverable_connection_errors(self) -> ExceptionTypes:
        """Errors after which connecting again may help."""
        transport_cls: Any = self.get_transport_cls()
        try:
            return exceptions.with_amqp(transport_cls.recoverable_connection_errors)
        except AttributeError:
            # A transport that does not tell: all of them may be.
            return self.connection_errors + self.channel_errors

    @cached_property
    def recoverable_channel_errors(self) -> ExceptionTypes:
        """Errors after which the same connection may be used with a new channel."""
        transport_cls: Any = self.get_transport_cls()
        try:
            return exceptions.with_amqp(transport_cls.recoverable_channel_errors)
        except AttributeError:
            return ()

    @cached_property
    def connection_errors(self) -> ExceptionTypes:
        """Errors of a lost or refused connection."""
        return exceptions.with_amqp(self.get_transport_cls().connection_errors)

    @cached_property
    def channel_errors(self) -> ExceptionTypes:
        """Errors that close a channel."""
        return exceptions.with_amqp(self.get_transport_cls().channel_errors)

    @property
    def supports_heartbeats(self) -> bool:
        """Whether the transport has heartbeats."""
        return self.transport.implements.heartbeats

    @property
    def is_evented(self) -> bool:
        """Whether an event loop can watch the connection."""
        return self.transport.implements.asynchronous


BrokerConnection = Connection


def maybe_channel(channel: Any) -> Any:
    """The channel, or the default channel of a connection."""
    return channel.default_channel if is_connection(channel) else channel


def is_connection(obj: object) -> TypeGuard[Connection]:
    """Whether ``obj`` is a :class:`Connection`."""
    return isinstance(obj, Connection)


# At the end: pools are made of connections, and belong to this module for who uses them.
from .connection_pool import ChannelPool, ConnectionPool  # noqa: E402
from .connection_pool import PooledConnection as PooledConnection  # noqa: E402
