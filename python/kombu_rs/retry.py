"""Doing something again after the connection was lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from . import exceptions

__all__ = ("CannotConnect", "Retrying")

# Transport options that say how often and how long to try to connect.
_RETRY_OPTIONS = (
    "max_retries",
    "interval_start",
    "interval_step",
    "interval_max",
    "errback",
    "callback",
)


class CannotConnect(exceptions.OperationalError):
    """Connecting was tried for as long as was wanted: what needs the connection fails at once."""


class Retrying:
    """The part of a connection that tries again."""

    # Given by the connection.
    transport: Any
    transport_options: Any
    connect_timeout: float | None
    default_channel: Any
    recoverable_connection_errors: tuple[type[BaseException], ...]
    recoverable_channel_errors: tuple[type[BaseException], ...]
    collect: Callable[..., Any]
    maybe_switch_next: Callable[[], Any]
    _ensure_connection: Callable[..., Any]
    _reraise_as_library_errors: Callable[..., Any]
    _debug: Callable[..., Any]

    def _extract_failover_opts(self) -> dict[str, Any]:
        options = self.transport_options or {}
        found = {name: options[name] for name in _RETRY_OPTIONS if name in options}
        found["timeout"] = options.get("connect_retries_timeout", self.connect_timeout)
        return found

    def ensure(
        self,
        obj: Any,
        fun: Callable[..., Any],
        errback: Any = None,
        max_retries: int | None = None,
        interval_start: float = 1,
        interval_step: float = 1,
        interval_max: float = 1,
        on_revive: Any = None,
        retry_errors: Any = None,
    ) -> Callable[..., Any]:
        """Return a function that calls ``fun`` until no connection or channel error comes.

        Arguments:
            obj: its ``revive(channel)`` is called after a reconnect: what ``fun`` works with.
            fun: the function.
            errback: called with ``(exc, interval)`` for each error.
            max_retries: give up after so many further tries. Default: never.
            interval_start, interval_step, interval_max: waits of the reconnect, in seconds.
            on_revive: called with the new channel after a reconnect.
            retry_errors: also try again after these errors.

        The function raises OperationalError when it gives up.
        """
        retry_errors = () if retry_errors is None else tuple(retry_errors)

        def gives_up(retries: int) -> bool:
            return max_retries is not None and retries >= max_retries

        def reconnect(exc: BaseException, retries: int) -> None:
            # Before anything else: the broker that failed may not be the one to ask again.
            self.collect()
            self.maybe_switch_next()
            if errback:
                errback(exc, 0)
            left = None if max_retries is None else max(max_retries - retries, 1)
            self._ensure_connection(
                errback,
                left,
                interval_start,
                interval_step,
                interval_max,
                reraise_as_library_errors=False,
            )
            channel = self.default_channel
            obj.revive(channel)
            if on_revive:
                on_revive(channel)

        def _ensured(*args: Any, **kwargs: Any) -> Any:
            connection_errors = self.recoverable_connection_errors
            channel_errors = self.recoverable_channel_errors
            # Without this distinction an error may be one that no reconnect cures.
            recoverable_known = hasattr(self.transport, "recoverable_connection_errors")
            reconnected = False
            with self._reraise_as_library_errors():
                for retries in count():
                    try:
                        return fun(*args, **kwargs)
                    except retry_errors as exc:
                        if gives_up(retries):
                            raise
                        self._debug("ensure retry policy error: %r", exc, exc_info=True)
                    except CannotConnect:
                        raise
                    except connection_errors as exc:
                        if gives_up(retries) or (reconnected and not recoverable_known):
                            raise
                        self._debug("ensure connection error: %r", exc, exc_info=True)
                        reconnect(exc, retries)
                        reconnected = True
                    except channel_errors as exc:
                        if gives_up(retries):
                            raise
                        self._debug("ensure channel error: %r", exc, exc_info=True)
                        if errback:
                            errback(exc, 0)

        _ensured.__name__ = f"{getattr(fun, '__name__', repr(fun))}(ensured)"
        _ensured.__doc__ = getattr(fun, "__doc__", None)
        _ensured.__module__ = getattr(fun, "__module__", __name__)
        return _ensured

    def autoretry(
        self, fun: Callable[..., Any], channel: Any = None, **ensure_options: Any
    ) -> Callable[..., tuple[Any, Any]]:
        """Return a function that calls ``fun(*args, channel=channel, **kwargs)``, with retries.

        Arguments:
            fun: the function; it must take ``channel``.
            channel: the channel to begin with. Default: the default channel.
            ensure_options: arguments of :meth:`ensure`.

        The function returns ``(result, channel)``: the channel is a new one after a reconnect.
        """
        task = _Autoretry(self, fun, channel, ensure_options)
        return self.ensure(task, task, **ensure_options)


class _Autoretry:
    """The function of :meth:`Connection.autoretry`, with the channel that it goes on with."""

    def __init__(
        self, connection: Any, fun: Callable[..., Any], channel: Any, options: dict[str, Any]
    ) -> None:
        self.__name__ = getattr(fun, "__name__", None)
        self.__module__ = getattr(fun, "__module__", __name__)
        self.__doc__ = getattr(fun, "__doc__", None)
        self.connection = connection
        self.fun = fun
        self.channel = channel
        self.options = options

    def revive(self, channel: Any) -> None:
        """Go on with another channel."""
        self.channel = channel

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self.channel is None:
            self.channel = self._open()
        return self.fun(*args, channel=self.channel, **kwargs), self.channel

    def _open(self) -> Any:
        connection = self.connection
        if not connection.connected:
            options = connection._extract_failover_opts()
            options.update((k, self.options[k]) for k in _RETRY_OPTIONS if k in self.options)
            connection._ensure_connection(**options)
        return connection.default_channel
