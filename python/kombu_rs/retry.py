"""Doing something again after the connection was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from . import _native, exceptions
from ._typing import Any

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


# Seconds of a publish's timeout that are no use for another try.
_TOO_LITTLE = 0.001


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
    as_uri: Callable[[], str]
    _debug: Callable[..., Any]

    def _extract_failover_opts(self) -> dict[str, Any]:
        options = self.transport_options or {}
        found = {name: options[name] for name in _RETRY_OPTIONS if name in options}
        found["timeout"] = options.get("connect_retries_timeout", self.connect_timeout)
        return found

    def _budget(self) -> float | None:
        """Seconds that a publish with a timeout has left; None without one, or where the timeout
        is for sending alone."""
        left = _native.budget()
        if left is None or not hasattr(self.transport, "await_broker"):
            return None
        return max(left, _TOO_LITTLE)

    def _await_broker(self, seconds: float, callback: Callable[[], Any] | None) -> float:
        """Wait until a broker can be reached again, for ``seconds`` at most.

        Returns:
            The seconds that are left to wait without knowing: all of them, unless the transport is
            one of ours.
        """
        while seconds > 0:
            await_broker = getattr(self.transport, "await_broker", None)
            if await_broker is None:
                break
            if callback:
                callback()
            found = await_broker(min(seconds, 1.0))
            if found:
                return 0
            if found is None:
                break
            seconds -= 1.0
            # Another one may be there first.
            self.maybe_switch_next()
        return max(seconds, 0)

    @contextmanager
    def _reraise_as_library_errors(
        self,
        ConnectionError: Any = exceptions.OperationalError,
        ChannelError: Any = exceptions.OperationalError,
    ) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, ChannelError):
            raise
        except self.recoverable_connection_errors as exc:
            raise ConnectionError(str(exc)) from exc
        except self.recoverable_channel_errors as exc:
            raise ChannelError(str(exc)) from exc

    @contextmanager
    def _reraise_as_cannot_connect(self) -> Iterator[None]:
        """As :meth:`_reraise_as_library_errors`, and say where it wanted to connect."""
        try:
            yield
        except self.recoverable_connection_errors + self.recoverable_channel_errors as exc:
            text = str(exc)
            if not text.startswith("cannot connect"):
                text = f"cannot connect to {self.as_uri()}: {text}"
            raise CannotConnect(text) from exc

    @contextmanager
    def _dummy_context(self) -> Iterator[None]:
        yield

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
            left = self._budget()
            if left is not None and left <= _TOO_LITTLE:
                return True
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
