"""A call to be made later by the event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class promise:
    """A call, and what is to be called with its result.

    The small part of ``vine.promise`` that an event loop needs, with the same
    names. The loop takes those of vine just as well.

    Arguments:
        fun (Callable): What to call.
        args (tuple): With which arguments.
        kwargs (dict): With which keyword arguments.
    """

    __slots__ = (
        "__weakref__",
        "_listeners",
        "args",
        "cancelled",
        "failed",
        "fun",
        "kwargs",
        "ready",
        "reason",
        "value",
    )

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.fun: Callable[..., Any] = fun
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] | None = kwargs
        self.cancelled: bool = False
        self.ready: bool = False
        self.failed: bool = False
        self.value: Any = None
        self.reason: BaseException | None = None
        self._listeners: list[tuple[Any, Any]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call, with further arguments if there are any, unless it is cancelled."""
        if self.cancelled:
            return None
        try:
            if args or kwargs or self.kwargs:
                value = self.fun(*self.args, *args, **{**(self.kwargs or {}), **kwargs})
            else:
                value = self.fun(*self.args)
        except Exception as exc:
            if not self._fail(exc):
                raise
            return None
        self.value, self.ready = value, True
        for callback, _ in self._listeners or ():
            callback(value)
        return value

    def _fail(self, exc: BaseException) -> bool:
        """Note the exception; return true if a listener has taken it."""
        self.failed, self.reason = True, exc
        handlers = [on_error for _, on_error in self._listeners or () if on_error]
        for on_error in handlers:
            on_error(exc)
        return bool(handlers)

    def then(self, callback: Callable[..., Any], on_error: Any = None) -> Any:
        """Call ``callback`` with the result, ``on_error`` with an exception.

        Returns:
            ``callback``.
        """
        if self.ready:
            callback(self.value)
        elif self.failed:
            if on_error:
                on_error(self.reason)
        else:
            self._listeners = [*(self._listeners or ()), (callback, on_error)]
        return callback

    def throw(self, exc: BaseException | None = None, *args: Any, **kwargs: Any) -> None:
        """Fail with ``exc`` (default: the current exception) instead of making the call."""
        reason = exc or sys.exc_info()[1] or RuntimeError("promise.throw() without an exception")
        if not self._fail(reason):
            raise reason

    def cancel(self) -> None:
        """Do not make the call."""
        self.cancelled = True

    def __repr__(self) -> str:
        return f"<promise: {self.fun!r} {self.args!r}>"
