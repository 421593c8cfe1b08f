"""Connections with py-amqp's methods."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from ... import _native, exceptions
from ..._typing import TYPE_CHECKING, Any
from ...utils.url import safequote
from ..native import Replaceable, as_it_is
from . import errors
from .channel import Channel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ("Connection",)


_TCP_OPTIONS = (
    *("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"),
    "TCP_USER_TIMEOUT",
)


#: The members of ``context`` in py-amqp's ``ssl``, and what they are here.
_CONTEXT = {
    "cafile": "ca_certs",
    "capath": "ca_path",
    "cadata": "ca_data",
    "check_hostname": "check_hostname",
}


class _Settings:
    """What the core is told: a URL and options."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url
        self.options = options


def _settings(
    host: str = "localhost:5672",
    userid: str = "guest",
    password: str = "guest",
    login_method: str | None = None,
    login_response: Any = None,
    authentication: Any = (),
    virtual_host: str = "/",
    locale: str = "en_US",
    client_properties: dict[str, Any] | None = None,
    ssl: Any = False,
    connect_timeout: float | None = None,
    channel_max: int | None = None,
    frame_max: int | None = None,
    heartbeat: float = 0,
    confirm_publish: bool = False,
    read_timeout: float | None = None,
    write_timeout: float | None = None,
    socket_settings: dict[Any, Any] | None = None,
    consumer_timeout: float | None = 1800,
    insist: bool = False,
    frame_handler: Any = None,
    frame_writer: Any = None,
    **options: Any,
) -> _Settings:
    for name, value in (("frame_handler", frame_handler), ("frame_writer", frame_writer)):
        if value is not None:
            raise ValueError(f"{name} is not supported: frames are read and written natively")
    for name, value in (("login_response", login_response), ("authentication", authentication)):
        if value:
            raise ValueError(
                f"{name} is not supported: say login_method 'PLAIN', 'AMQPLAIN' or 'EXTERNAL'"
            )
    if locale != "en_US":
        raise ValueError(f"locale must be 'en_US', the only one that brokers have, got {locale!r}")
    user = safequote(userid or "")
    secret = safequote(str(password or ""))
    vhost = safequote(virtual_host or "/")
    scheme = "amqps" if ssl else "amqp"
    given = {
        "login_method": login_method,
        "client_properties": client_properties,
        "ssl": _plain_ssl(ssl) if isinstance(ssl, dict) else None,
        "connect_timeout": connect_timeout or None,
        "channel_max": channel_max,
        "frame_max": frame_max,
        "heartbeat": heartbeat or None,
        "confirm_publish": confirm_publish,
        "read_timeout": read_timeout or None,
        "write_timeout": write_timeout or None,
        "socket_settings": _socket_settings(socket_settings),
        "consumer_timeout": consumer_timeout or 0,
        **options,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return _Settings(f"{scheme}://{user}:{secret}@{host}/{vhost}", chosen)


def _plain_ssl(ssl: dict[str, Any]) -> dict[str, Any]:
    """TLS settings in the core's words, without the ssl module's enums.

    Raises:
        ValueError, TypeError: ``context`` has what cannot be had.
    """
    plain = {
        name: int(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in ssl.items()
    }
    # What py-amqp hands to ssl.create_default_context().
    context = plain.pop("context", None)
    if context is None:
        return plain
    if not isinstance(context, dict):
        raise TypeError(
            "the AMQP transport option 'context' in `ssl` must be a dictionary of "
            f"{', '.join(_CONTEXT)}, not {context!r}: OpenSSL is not used"
        )
    for name, value in context.items():
        if name not in _CONTEXT:
            raise ValueError(
                f"the AMQP transport option {name!r} in `context` is not supported: there are "
                f"{', '.join(_CONTEXT)}"
            )
        plain[_CONTEXT[name]] = value
    return plain


def _socket_settings(settings: dict[Any, Any] | None) -> dict[str, Any] | None:
    """TCP options under the names that the socket module has for them."""
    if not settings:
        return None
    import socket

    names = {getattr(socket, name): name for name in _TCP_OPTIONS if hasattr(socket, name)}
    return {names.get(option, str(option)): value for option, value in settings.items()}


class Connection(_native.Transport, Replaceable):
    """A connection to a broker, shared by any number of threads.

    Arguments:
        host: ``"name:port"``.
        userid, password: whom to log in as.
        login_method: ``"PLAIN"`` (default), ``"AMQPLAIN"`` or ``"EXTERNAL"``.
        virtual_host: default ``"/"``.
        client_properties: what to tell the broker of this program, such as ``connection_name``.
        ssl: True, or a dictionary with ``ca_certs``, ``cert_reqs``, ``certfile``,
            ``check_hostname``, ``ciphers``, ``keyfile``, ``server_hostname`` and others of
            py-amqp's. Certificate and host are verified unless told otherwise.
        connect_timeout: seconds for everything until the connection is open. Default: 5.
        channel_max, frame_max: limits; the broker's count, too. Default frame_max: 131072 bytes.
        heartbeat: seconds; 0: as the broker wants.
        on_open: called with the connection when it is open.
        on_blocked: called with the reason when the broker stops taking publishes.
        on_unblocked: called without arguments when it takes them again.
        confirm_publish: a publish returns when the broker has the message.
        on_tune_ok: called without arguments when limits are agreed.
        read_timeout: seconds that an answer may take; the link counts as lost then.
        write_timeout: seconds that the socket may take nothing (the link counts as lost then),
            and the broker block publishers.
        publish_timeout: seconds that a publish without a ``timeout`` of its own may take, and any
            other method while the broker blocks publishers. Default: 30; 0: for ever.
        socket_settings: TCP options by their numbers in :mod:`socket`: ``TCP_KEEPIDLE``,
            ``TCP_KEEPINTVL``, ``TCP_KEEPCNT``, ``TCP_USER_TIMEOUT``.
        consumer_timeout: seconds after which the broker closes the channel of a message that is not
            acknowledged, as it is set there. After four fifths of it a warning is logged, to
            ``kombu.channel``. 0 or None: no warnings. Default: 1800, RabbitMQ's.

    Raises:
        ValueError, TypeError: naming the argument that is wrong.
    """

    _gone_around = frozenset({"drain_events"})
    _host: str

    Channel = Channel

    # The second: a call that a fork has cut off, on every transport.
    connection_errors = (
        exceptions.ConnectionError,
        exceptions.BrokerConnectionError,
        OSError,
    )
    channel_errors = (exceptions.ChannelError,)
    recoverable_connection_errors = (
        exceptions.RecoverableConnectionError,
        exceptions.MessageNacked,
        OSError,
    )
    recoverable_channel_errors = (exceptions.RecoverableChannelError,)

    def __new__(
        cls,
        *args: Any,
        on_open: Any = None,
        on_blocked: Any = None,
        on_unblocked: Any = None,
        on_tune_ok: Any = None,
        **kwargs: Any,
    ) -> Self:
        settings = _settings(*args, **kwargs)
        connection = super().__new__(cls, settings)
        connection.client = None
        connection._host = kwargs.get("host") or (args[0] if args else "localhost:5672")
        return connection

    def __init__(
        self,
        *args: Any,
        on_open: Callable[[Any], Any] | None = None,
        on_blocked: Callable[[str], Any] | None = None,
        on_unblocked: Callable[[], Any] | None = None,
        on_tune_ok: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        #: Open channels by their numbers.
        self.channels: dict[int, Any] = {}
        self.on_open = on_open
        self.on_blocked = on_blocked
        self.on_unblocked = on_unblocked
        self.on_tune_ok = on_tune_ok
        #: What the broker says of itself.
        self.server_properties: dict[str, Any] = {}
        #: Seconds between heartbeats, as agreed with the broker; 0 without them.
        self.heartbeat = 0
        self.channel_max: int | None = None
        self.frame_max: int | None = None
        self._loop: Any = None

    @classmethod
    def _parameters(cls, settings: Any) -> tuple[str, dict[str, Any]]:
        return settings.url, settings.options

    def connect(self, callback: Callable[[], Any] | None = None) -> None:
        """Connect and log in.

        Raises:
            OSError: the broker cannot be reached, or does not answer in time.
            AccessRefused: it does not know the user, or not with this password.
            NotAllowed: it has no such virtual host, or not for this user.
        """
        left = _native.budget()  # of a publish with a timeout
        try:
            self._connect(left)
        except TimeoutError:
            text = f"cannot connect to {self._host} within the timeout of the publish"
            raise errors.from_core("connection", 0, text, None) from None
        for name, value in (self._agreed() or {}).items():
            setattr(self, name, value)
        if self.on_tune_ok is not None:
            self.on_tune_ok()
        if self.on_open is not None:
            self.on_open(self)
        if callback is not None:
            callback()

    @property
    def connected(self) -> bool:
        """Whether it is open, as far as known without asking."""
        return self._is_connected()

    def is_alive(self) -> bool:
        """As :attr:`connected`."""
        return self.connected

    @property
    def server_capabilities(self) -> dict[str, Any]:
        """What the broker says it can do."""
        return self.server_properties.get("capabilities") or {}

    def channel(
        self, channel_id: int | None = None, callback: Callable[[Any], Any] | None = None
    ) -> Any:
        """Open a channel.

        Arguments:
            channel_id: that of an open channel, to get that one.
            callback: called with the channel when it is open.

        Raises:
            RecoverableConnectionError: the connection is closed or lost.
        """
        if channel_id in self.channels:
            return self.channels[channel_id]
        return self.Channel(self, channel_id, on_open=callback)

    def drain_events(self, timeout: float | None = None) -> None:  # type: ignore[override]
        """Wait for an event and handle it.

        Raises:
            TimeoutError: nothing came within ``timeout`` seconds (None: wait for ever).
        """
        super().drain_events(None, timeout)

    def _on_blocked_state(self, why: str | None) -> None:
        if why is None:
            if self.on_unblocked is not None:
                self.on_unblocked()
        elif self.on_blocked is not None:
            self.on_blocked(why)

    def heartbeat_tick(self, rate: int = 2) -> None:
        """Check that the link is there. Heartbeats are sent without this.

        Raises:
            ConnectionForced: the link is lost.
        """
        if not self.connected:
            self._tell_loss()
            raise exceptions.ConnectionForced("the connection to the broker is lost")

    def send_heartbeat(self) -> None:
        """Does nothing: heartbeats are sent without this."""

    def enter_loop(self, loop: Any, on_readable: Callable[..., Any], *args: Any) -> None:
        """Have an event loop watch the connection's descriptor."""
        self._loop = loop
        loop.add_reader(self.fileno(), on_readable, *args)
        self._set_event_loop(True)

    def _leave_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            self._set_event_loop(False)
            loop.remove_reader(self.fileno())

    def close(
        self,
        reply_code: int = 0,
        reply_text: str = "",
        method_sig: tuple[int, int] = (0, 0),
        argsig: str = "BsBB",
    ) -> None:
        """Say goodbye to the broker and close the link."""
        self._forget_users()
        self._close()

    def collect(self) -> None:
        """Give the link up, without waiting for the broker.

        It is told, and puts back what is not acknowledged; acknowledgements that were made count.
        """
        self._forget_users()
        self._leave()

    def _forget_users(self) -> None:
        self._leave_loop()
        for channel in list(self.channels.values()):
            channel.collect()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


Connection._native_class = as_it_is(Connection)
