"""Functional-style utilities: caches, lazy values, retries, number ranges."""

from __future__ import annotations

import threading
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import count, repeat
from time import sleep, time

from .._typing import Any, TypeVar, overload
from .encoding import safe_repr as _safe_repr

__all__ = (
    "LRUCache",
    "memoize",
    "lazy",
    "maybe_evaluate",
    "is_list",
    "maybe_list",
    "dictfilter",
    "retry_over_time",
)

_T = TypeVar("_T")

#: Separates positional from keyword arguments in the keys of :func:`memoize`.
KEYWORD_MARK = object()


class ChannelPromise:
    """A channel that is opened when it is first needed.

    Arguments:
        contract (Callable): Opens the channel; called at most once with success.
    """

    def __init__(self, contract: Callable[[], Any]) -> None:
        self.__contract__ = contract
        self.__value__: Any

    def __call__(self) -> Any:
        # Not try/except around the call: what the contract raises should not
        # be shown as having happened during handling of an AttributeError.
        if "__value__" not in self.__dict__:
            self.__value__ = self.__contract__()
        return self.__value__

    def __repr__(self) -> str:
        if "__value__" in self.__dict__:
            return repr(self.__value__)
        return f"<promise: 0x{id(self.__contract__):x}>"


class LRUCache(UserDict[Any, Any]):
    """A dict that drops the keys that were not used for longest. Threads may share it.

    Arguments:
        limit (int): Most keys to keep; ``None`` keeps all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.mutex: Any = threading.RLock()
        self.data: OrderedDict[Any, Any] = OrderedDict()

    def __getitem__(self, key: Any) -> Any:
        with self.mutex:
            value = self.data[key]
            self.data.move_to_end(key)
            return value

    def __setitem__(self, key: Any, value: Any) -> None:
        with self.mutex:
            self.data[key] = value
            self.data.move_to_end(key)
            self._shrink()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Like :meth:`dict.update`; the limit is enforced afterwards."""
        with self.mutex:
            self.data.update(*args, **kwargs)
            self._shrink()

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Remove and return the item used last, or the one not used for longest."""
        with self.mutex:
            return self.data.popitem(last)

    def incr(self, key: Any, delta: int = 1) -> int:
        """Add ``delta`` to the number at ``key``, which is stored as text."""
        with self.mutex:
            value = int(self.data[key]) + delta
            self[key] = str(value)
            return value

    def _shrink(self) -> None:
        if self.limit:
            while len(self.data) > self.limit:
                self.data.popitem(last=False)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def keys(self) -> Any:
        """The keys, those not used for longest first."""
        return self.data.keys()

    def values(self) -> Any:
        """The values in the order of the keys."""
        return self.data.values()

    def items(self) -> Any:
        """The items in the order of the keys."""
        return self.data.items()

    def _iterate_keys(self) -> Iterator[Any]:
        with self.mutex:
            return iter(list(self.data))

    def _iterate_values(self) -> Iterator[Any]:
        with self.mutex:
            return iter(list(self.data.values()))

    def _iterate_items(self) -> Iterator[tuple[Any, Any]]:
        with self.mutex:
            return iter(list(self.data.items()))

    def iterkeys(self) -> Iterator[Any]:
        """Iterate over a copy of the keys."""
        return self._iterate_keys()

    def itervalues(self) -> Iterator[Any]:
        """Iterate over a copy of the values."""
        return self._iterate_values()

    def iteritems(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over a copy of the items."""
        return self._iterate_items()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "mutex"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = dict(state, mutex=threading.RLock())


def memoize(
    maxsize: int | None = None,
    keyfun: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None,
    Cache: Callable[..., Any] = LRUCache,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function so that results are kept per arguments.

    Arguments:
        maxsize: Most results to keep; ``None`` keeps all.
        keyfun: Makes the key, called as ``keyfun(args, kwargs)``.
        Cache: Class of the cache, called as ``Cache(limit=maxsize)``.

    The decorated function has ``clear()``, ``hits``, ``misses`` and ``original_func``.
    """

    def decorate(fun: Callable[..., Any]) -> Callable[..., Any]:
        mutex = threading.Lock()
        cache = Cache(limit=maxsize)

        @wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            if keyfun:
                key = keyfun(args, kwargs)
            else:
                key = (*args, KEYWORD_MARK, *sorted(kwargs.items()))
            try:
                with mutex:
                    value = cache[key]
                    remembered.hits += 1
                    return value
            except KeyError:
                pass
            value = fun(*args, **kwargs)
            with mutex:
                remembered.misses += 1
                cache[key] = value
            return value

        remembered: Any = call  # a function with attributes

        def clear() -> None:
            """Forget all results and zero the counters."""
            cache.clear()
            remembered.hits = remembered.misses = 0

        clear()
        remembered.clear = clear
        remembered.original_func = fun
        return remembered

    return decorate


class lazy:
    """A call that is made whenever its value is asked for.

    Example:
        >>> lazy(lambda x: x * 2, 21)()
        42
    """

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._fun = fun
        self._args = args
        self._kwargs = kwargs

    def evaluate(self) -> Any:
        """Make the call."""
        return self._fun(*self._args, **self._kwargs)

    def __call__(self) -> Any:
        return self.evaluate()

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())

    def __eq__(self, rhs: object) -> bool:
        return self() == maybe_evaluate(rhs)

    def __ne__(self, rhs: object) -> bool:
        return self() != maybe_evaluate(rhs)

    __hash__: None = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> lazy:
        memo[id(self)] = self
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self._fun, *self._args), {"_kwargs": self._kwargs}


def maybe_evaluate(value: Any) -> Any:
    """Evaluate ``value`` if it is a :class:`lazy`, else return it as it is."""
    return value.evaluate() if isinstance(value, lazy) else value


#: Older names.
promise: type[lazy] = lazy
maybe_promise: Callable[[Any], Any] = maybe_evaluate


def is_list(
    obj: Any,
    scalars: tuple[type, ...] = (Mapping, str),
    iters: tuple[type, ...] = (Iterable,),
) -> bool:
    """Return true if ``obj`` is iterable but neither text nor a mapping."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


@overload
def maybe_list(obj: str, scalars: tuple[type, ...] = (Mapping, str)) -> list[str]: ...
@overload
def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any: ...
def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """Put ``obj`` into a list unless it is one (see :func:`is_list`) or ``None``."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[Any, Any] | None = None, **kw: Any) -> dict[Any, Any]:
    """Return the items of ``d`` and ``kw`` whose value is not ``None``."""
    merged = kw if d is None else {**d, **kw}
    return {k: v for k, v in merged.items() if v is not None}


def shufflecycle(it: Iterable[_T]) -> Iterator[_T]:
    """Yield one of ``it`` at random, for ever, shuffling before each."""
    import random

    pool = list(it)
    for _ in repeat(None):
        random.shuffle(pool)
        yield pool[0]


def fxrange(
    start: float = 1.0,
    stop: float | None = None,
    step: float = 1.0,
    repeatlast: bool = False,
) -> Iterator[float]:
    """Yield numbers from ``start`` up to and including ``stop``.

    Arguments:
        stop: ``None`` or 0 for no end.
        repeatlast: Go on with the last number instead of ending.
    """
    current = start * 1.0
    while not stop or current <= stop:
        yield current
        current += step
    while repeatlast:
        yield current - step


def fxrangemax(
    start: float = 1.0,
    stop: float | None = None,
    step: float = 1.0,
    max: float = 100.0,
) -> Iterator[float]:
    """Like :func:`fxrange`, repeating ``stop``, until the numbers add up to ``max``."""
    total, current = 0.0, start * 1.0
    while total < max:
        yield current
        current += step
        if stop:
            current = min(current, stop)
        total += current


def retry_over_time(
    fun: Callable[..., _T],
    catch: type[BaseException] | tuple[type[BaseException], ...],
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    errback: Callable[[Any, Iterator[float], int], float] | None = None,
    max_retries: int | None = None,
    interval_start: float = 2,
    interval_step: float = 2,
    interval_max: float = 30,
    callback: Callable[[], Any] | None = None,
    timeout: float | None = None,
) -> _T:
    """Call ``fun`` until it does not raise ``catch``, and return its result.

    Arguments:
        errback: Called after each failure with the exception, the iterator of
            intervals and the number of retries so far. Returns the seconds to
            wait, usually ``next(intervals)``.
        max_retries: Retries before the exception goes to the caller; ``None`` for ever.
        interval_start: Seconds to wait before the first retry.
        interval_step: Seconds to add for each further one.
        interval_max: Most seconds to wait at once.
        callback: Called before each retry and each second while waiting.
        timeout: Seconds after which no more retry is made. The wait before the
            last one is cut short so that it still falls into that time.
    """
    args, kwargs = tuple(args or ()), dict(kwargs or {})
    steps = fxrange(interval_start, interval_max + interval_start, interval_step, repeatlast=True)
    intervals = (min(step, interval_max) for step in steps)
    end = time() + timeout if timeout else None
    for retries in count():
        try:
            return fun(*args, **kwargs)
        except catch as exc:
            if max_retries is not None and retries >= max_retries:
                raise
            if end is not None and time() >= end:
                raise
            if callback:
                callback()
            pause = float(errback(exc, intervals, retries) if errback else next(intervals))
            pause = min(pause, interval_max)
            if end is not None:
                pause = min(pause, max(0.0, end - time()))
        # In steps of a second, so that a callback can stop the waiting.
        while pause > 0:
            if callback:
                callback()
            sleep(min(pause, 1.0))
            pause -= 1.0
    return None  # type: ignore[return-value]  # not reached: there is always one more try


def reprkwargs(kwargs: Mapping[Any, Any], sep: str = ", ", fmt: str = "{0}={1}") -> str:
    """Return ``kwargs`` as in the source of a call."""
    return sep.join(fmt.format(k, _safe_repr(v)) for k, v in kwargs.items())


def reprcall(
    name: str,
    args: Iterable[Any] = (),
    kwargs: Mapping[Any, Any] | None = None,
    sep: str = ", ",
) -> str:
    """Return a call as in source: ``name(arg, key=value)``."""
    shown = [_safe_repr(arg) for arg in args or ()]
    if kwargs:
        shown.append(reprkwargs(kwargs, sep))
    return f"{name}({sep.join(shown)})"


def accepts_argument(func: Callable[..., Any], argument_name: str) -> bool:
    """Return true if ``func`` names ``argument_name`` among its arguments (``self`` included)."""
    import inspect

    spec = inspect.getfullargspec(func)
    return argument_name in spec.args or argument_name in spec.kwonlyargs
