"""Taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .. import _native
from .._typing import Any
from .imports import symbol_by_name

__all__ = ("FairCycle", "priority_cycle", "round_robin_cycle", "sorted_cycle")


class FairCycle(_native.FairCycle):
    """Ask resources in turn, so that a busy one cannot starve the others.

    Arguments:
        fun (Callable): called as ``fun(resource, callback, **kwargs)``.
        resources (Sequence): what to ask; may change between calls.
        predicate (type): exception by which ``fun`` says "nothing here"; default: ``Exception``.
    """

    # Here for its signature: a native one cannot show a class as a default.
    def __new__(
        cls,
        fun: Callable[..., Any],
        resources: Any,
        predicate: type[BaseException] = Exception,
    ) -> FairCycle:
        return super().__new__(cls, fun, resources, predicate)


class round_robin_cycle:
    """Queues in turn: the one that was just served goes last."""

    def __init__(self, it: Iterable[Any] | None = None) -> None:
        self.items: list[Any] = list(it) if it is not None else []

    def update(self, it: Iterable[Any]) -> None:
        """Replace the queues."""
        self.items[:] = it

    def consume(self, n: int) -> list[Any]:
        """Return the first ``n`` queues in the order in which to ask them."""
        return self.items[:n]

    def rotate(self, last_used: Any) -> Any:
        """Note that ``last_used`` was served."""
        try:
            self.items.remove(last_used)
        except ValueError:
            pass  # cancelled in the meantime
        else:
            self.items.append(last_used)
        return last_used


class priority_cycle(round_robin_cycle):
    """Queues in the order in which they were given, always from the first."""

    def rotate(self, last_used: Any) -> None:
        """Do nothing: the order is fixed."""


class sorted_cycle(priority_cycle):
    """Queues in the order of their names, always from the first."""

    def consume(self, n: int) -> list[Any]:
        """Return the first ``n`` queues, sorted."""
        return sorted(self.items[:n])


#: Values of the transport option ``queue_order_strategy``.
CYCLE_ALIASES = {
    "priority": f"{__name__}:priority_cycle",
    "round_robin": f"{__name__}:round_robin_cycle",
    "sorted": f"{__name__}:sorted_cycle",
}


def cycle_by_name(name: str | type) -> type:
    """Return the class for a ``queue_order_strategy``: an alias, ``module:Class`` or a class."""
    return symbol_by_name(name, CYCLE_ALIASES)
