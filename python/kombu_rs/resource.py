"""Pools of things that are costly to make."""

from __future__ import annotations

from contextlib import nullcontext, suppress

from . import exceptions
from ._deferred import deferred_module
from ._typing import TYPE_CHECKING, Any, Generic, TypeVar
from .utils.compat import register_after_fork
from .utils.functional import lazy

if TYPE_CHECKING:
    import queue
else:
    queue = deferred_module("queue")

_T = TypeVar("_T")


def __getattr__(name: str) -> Any:
    # Names of this module, as in Kombu.
    if name in ("Empty", "LifoQueue"):
        return getattr(queue, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _after_fork_cleanup_resource(resource: Resource[Any]) -> None:
    # Another thread of the parent may have held the lock of the queue: it will
    # never be released here. And the pool stays open: a child that was handed
    # it makes things of its own.
    inherited, resource._resource = resource._resource, queue.LifoQueue()
    resource._resource.queue.extend(inherited.queue)
    with suppress(Exception):
        resource.force_close_all(close_pool=False)


def _checked_limit(limit: Any) -> int | None:
    if isinstance(limit, bool):
        raise TypeError("limit must be an int, not bool")
    return limit


class Resource(Generic[_T]):
    """A pool; subclasses say what of (:meth:`setup`, :meth:`new`, :meth:`prepare`).

    The thing used last is handed out first, so that what is not needed stays idle.

    Arguments:
        limit (int): Most things in use at once; ``None`` or 0 for no limit
            (then nothing is kept for use by others either).
        preload (int): How many to make at once instead of when needed.
        close_after_fork (bool): Close all in a child process.
    """

    #: Raised when the limit is reached.
    LimitExceeded = exceptions.LimitExceeded
    #: Default of the argument.
    close_after_fork: bool = False

    def __init__(
        self,
        limit: int | None = None,
        preload: int | None = None,
        close_after_fork: bool | None = None,
    ) -> None:
        self._limit = _checked_limit(limit)
        self.preload: int = preload or 0
        self._closed = False
        if close_after_fork is not None:
            self.close_after_fork = close_after_fork
        self._resource: queue.LifoQueue[Any] = queue.LifoQueue()
        self._dirty: set[Any] = set()
        if self.close_after_fork:
            register_after_fork(self, _after_fork_cleanup_resource)
        self.setup()

    def setup(self) -> None:
        """Fill the pool (with :class:`~kombu_rs.utils.functional.lazy` things, or real ones)."""
        raise NotImplementedError("subclass responsibility")

    def new(self) -> Any:
        """Return a thing, or a lazy one that makes it."""
        raise NotImplementedError("subclass responsibility")

    def _add_when_empty(self) -> None:
        if self.limit and len(self._dirty) >= self.limit:
            raise self.LimitExceeded(self.limit)
        # All were replaced or lost, none are in use.
        self._resource.put_nowait(self.new())

    def acquire(self, block: bool = False, timeout: float | None = None) -> _T:
        """Take a thing out of the pool; its ``release()`` gives it back.

        Arguments:
            block: Wait while the limit is reached.
            timeout: Seconds to wait; ``None`` for ever.

        Raises:
            LimitExceeded: if the limit is reached (still, after ``timeout``).
            RuntimeError: if the pool is closed.
        """
        if self._closed:
            raise RuntimeError("Acquire on closed pool")
        if self.limit:
            resource = self._acquire_limited(block, timeout)
        else:
            resource = self.prepare(self.new())

        def release() -> None:
            """Give it back to the pool that it came from."""
            self.release(resource)

        resource.release = release
        return resource

    def _acquire_limited(self, block: bool, timeout: float | None) -> Any:
        while True:
            try:
                found = self._resource.get(block=block, timeout=timeout)
            except queue.Empty:
                self._add_when_empty()
                continue
            try:
                resource = self.prepare(found)
            except BaseException:
                if isinstance(found, lazy):
                    self._resource.put(found)  # not made: nothing to close
                else:
                    self.release(found)
                raise
            self._dirty.add(resource)
            return resource

    def prepare(self, resource: Any) -> Any:
        """Return ``resource`` ready for use; called before each."""
        return resource

    def close_resource(self, resource: Any) -> None:
        """Close ``resource``."""
        resource.close()

    def release_resource(self, resource: Any) -> None:
        """Called after ``resource`` was given back."""

    def replace(self, resource: Any) -> None:
        """Close ``resource``, which is in use and broken, and make room for a new one."""
        if self.limit:
            self._dirty.discard(resource)
        self.close_resource(resource)

    def release(self, resource: Any) -> None:
        """Give ``resource`` back; it is closed if the pool has no limit."""
        if self.limit:
            self._dirty.discard(resource)
            self._resource.put_nowait(resource)
            self.release_resource(resource)
        else:
            self.close_resource(resource)

    def collect_resource(self, resource: Any) -> None:
        """Free what ``resource`` holds, without talking to a peer that may be gone."""

    def force_close_all(self, close_pool: bool = True) -> None:
        """Collect everything, also what is in use.

        Arguments:
            close_pool: Nothing can be acquired afterwards.
        """
        if self._closed:
            return
        self._closed = close_pool
        while True:
            try:
                resource = self._dirty.pop()
            except KeyError:
                break
            self._collect(resource)
        with getattr(self._resource, "mutex", None) or nullcontext():
            while True:
                try:
                    resource = self._resource.queue.pop()
                except IndexError:
                    break
                self._collect(resource)

    def _collect(self, resource: Any) -> None:
        with suppress(AttributeError):  # nothing was opened
            self.collect_resource(resource)

    def resize(
        self,
        limit: int | None,
        force: bool = False,
        ignore_errors: bool = False,
        reset: bool = False,
    ) -> None:
        """Change the limit.

        Arguments:
            force: Shrink although things are in use: closes them.
            ignore_errors: Shrink as far as possible.
            reset: Close everything first.

        Raises:
            RuntimeError: if it would shrink while things are in use.
        """
        limit = _checked_limit(limit)
        before = self._limit or 0
        shrinks = 0 < (limit or 0) < before
        if self._dirty and shrinks and not ignore_errors:
            if not force:
                raise RuntimeError(f"Can't shrink pool when in use: was={self._limit} now={limit}")
            reset = True
        self._limit = limit
        if reset:
            with suppress(Exception):
                self.force_close_all(close_pool=False)
        self.setup()
        self._shrink_down()

    def _shrink_down(self, collect: bool = True) -> None:
        # What is in use counts: it comes back.
        room = max(0, (self.limit or 0) - len(self._dirty))
        with getattr(self._resource, "mutex", None) or nullcontext():
            idle = self._resource.queue
            while len(idle) > room:
                resource = idle.pop(0)  # the one not used for longest
                if collect:
                    self._collect(resource)

    @property
    def limit(self) -> int | None:
        """Most things in use at once; may be set (see :meth:`resize`)."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.resize(limit)
