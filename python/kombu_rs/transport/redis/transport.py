"""The transport of ``redis://`` and ``rediss://``."""

from __future__ import annotations

from ..._typing import Any
from .. import native, native_virtual
from . import hooks, parameters
from .channel import Channel
from .errors import ErrorClasses, channel_errors, connection_errors
from .parameters import DEFAULT_PORT
from .poller import MultiChannelPoller

__all__ = ("Transport",)


class Transport(native_virtual.Transport):
    """Redis, in Kombu's layout.

    The settings are those of the first channel: of its class, of the transport options that it
    names, and of what its hooks say.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel

    scheme = "redis"
    can_parse_url = False
    default_port = DEFAULT_PORT
    driver_type = "redis"
    driver_name = "kombu-rs"

    connection_errors = ErrorClasses(connection_errors)  # type: ignore[assignment]
    channel_errors = ErrorClasses(channel_errors)  # type: ignore[assignment]

    #: Seconds from one look at the queues to the next at most, where the server may not tell of
    #: messages; None for a quarter of a second. Elsewhere nothing is polled.
    polling_interval: float | None = None
    #: Seconds that Kombu waits for a message at a time; the core does not wait in pieces.
    brpop_timeout: float = 1

    def __init__(self, client: Any = None, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        if self.polling_interval is not None:
            self.brpop_timeout = self.polling_interval
        self._cycle = MultiChannelPoller()
        # The first channel, until somebody asks for one; and its settings.
        self._first: Any = None
        self._settings: dict[str, Any] | None = None
        self._keyprefix_fanout = ""
        self._answered_for = False

    @classmethod
    def _parameters(cls, client: Any) -> tuple[str, dict[str, Any]]:
        return "redis://", {}  # until the first channel says more

    def _set_up(self, channel: Any) -> None:
        """Take over a channel's settings, or check that they are those of the first one."""
        settings = hooks.settings(channel)
        if self._settings is not None:
            self._check(settings)
            channel.keyprefix_fanout = self._keyprefix_fanout
            return
        url, options = channel._native_parameters()
        self._configure(url, {**self._other_options(channel), **options})
        credentials = channel._credentials()
        if credentials is not None:
            self._log_in_as(*credentials)
        self._settings = settings
        self._keyprefix_fanout = channel.keyprefix_fanout

    def _renew_login(self) -> None:
        """Ask for user and password anew: a link is to be made."""
        channel = self._first or next(iter(self.channels), None)
        credentials = channel and channel._credentials()
        if credentials:
            self._log_in_as(*credentials)

    def _check(self, settings: dict[str, Any]) -> None:
        known = self._settings or {}
        changed = sorted(name for name in settings if settings[name] != known.get(name))
        if changed:
            raise ValueError(
                f"{', '.join(changed)} cannot differ from the connection's other channels: "
                f"the native core has one configuration for each connection"
            )

    def _other_options(self, channel: Any) -> dict[str, Any]:
        """Transport options that no attribute of the channel stands for: the core judges them."""
        from . import MIN_BINDING_TTL

        left_out = {
            *channel.from_transport_options,
            *native.CONNECTION_OPTIONS,
            *native.CHANNEL_OPTIONS,
        }
        given = self.client.transport_options or {}
        other = {name: value for name, value in given.items() if name not in left_out}
        if self.polling_interval is not None:
            other["polling_interval"] = self.polling_interval
        return {"min_binding_ttl": MIN_BINDING_TTL, **other}

    def establish_connection(self) -> Any:
        """Connect within the connection's ``connect_timeout``.

        Raises:
            OperationalError: the server is not there, or refused us.
            ValueError, TypeError, NotImplementedError: an option, a setting or a hook of the
                channel's class is wrong or cannot be had here.
        """
        first = self._first_channel()
        if first is not None and first._has_own_client():
            # As in Kombu: it is the channel's client that says whether the server is there.
            first.client.ping()
            self._answered_for = True
            return self
        return super().establish_connection()

    def _first_channel(self) -> Any:
        """A channel, which has said how to connect."""
        if self._settings is None:
            self._first = self.Channel(self)
            if self._settings is None:
                raise TypeError(
                    f"{type(self).__name__}.Channel must be derived from "
                    f"{Channel.__module__}.Channel, {self.Channel.__name__} is not"
                )
        return self._first or next(iter(self.channels), None)

    def await_broker(self, seconds: float) -> bool | None:
        """Wait until the server can be reached again; None where a channel's own client decides."""
        first = self._first_channel()
        if first is not None and first._has_own_client():
            return None
        return super().await_broker(seconds)

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        first, self._first = self._first, None
        channel = first if first is not None else self.Channel(connection)
        self.cycle.add(channel)
        return channel

    def _forget_channel(self, channel: Any) -> None:
        super()._forget_channel(channel)
        self.cycle.discard(channel)
        if channel is self._first:
            self._first = None

    def verify_connection(self, connection: Any) -> bool:
        """Whether the link is there, as far as known without asking."""
        return self._answered_for or super().verify_connection(connection)

    def close_connection(self, connection: Any) -> None:
        """Close the channels and the link."""
        self._answered_for = False
        super().close_connection(connection)

    def _collect(self, connection: Any) -> None:
        self._answered_for = False
        super()._collect(connection)

    @property
    def supports_batch_publish(self) -> bool:
        """Whether messages can be collected and sent together: not with ``retry_on_timeout``, which
        might send a batch twice."""
        client = self.client
        options = {**parameters.url_options(client), **(client.transport_options or {})}
        return not options.get("retry_on_timeout", self.Channel.retry_on_timeout)

    @classmethod
    def _url(cls, client: Any) -> str:
        url = super()._url(client)
        if url.startswith("socket://"):
            # The connection has taken the prefix off `redis+socket:///path`.
            return f"redis+{url}"
        if getattr(client, "transport_cls", None) == "rediss" and url.startswith("redis://"):
            return "rediss" + url[len("redis") :]
        return url


Transport._native_class = Transport
