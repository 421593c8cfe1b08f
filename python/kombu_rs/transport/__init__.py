"""Transports by name."""

from __future__ import annotations

from .._typing import TYPE_CHECKING, Any
from ..utils.compat import _detect_environment
from ..utils.imports import symbol_by_name

if TYPE_CHECKING:
    from . import base

__all__ = ("TRANSPORT_ALIASES", "get_transport_cls", "resolve_transport", "supports_librabbitmq")

#: Transports that work, by URL scheme. A value is ``"module:Class"`` or a function that returns
#: one. Programs may add their own.
TRANSPORT_ALIASES: dict[str, Any] = {
    "amqp": f"{__name__}.amqp:Transport",
    "amqps": f"{__name__}.amqp:SSLTransport",
    "pyamqp": f"{__name__}.amqp:Transport",
    "librabbitmq": f"{__name__}.amqp:Transport",
    "azureservicebus": f"{__name__}.azureservicebus:Transport",
    "azurestoragequeues": f"{__name__}.azurestoragequeues:Transport",
    "filesystem": f"{__name__}.filesystem:Transport",
    "gcpubsub": f"{__name__}.gcpubsub:Transport",
    "memory": f"{__name__}.memory:Transport",
    # As in an installed Kombu that uses our transport: kombu-rs+redis://host/0.
    "kombu-rs": f"{__name__}.native:Transport",
    "pyro": f"{__name__}.pyro:Transport",
    "redis": f"{__name__}.redis:Transport",
    "rediss": f"{__name__}.redis:Transport",
    "sentinel": f"{__name__}.redis:SentinelTransport",
    # Kombu has none for a cluster.
    "rediscluster": f"{__name__}.redis:ClusterTransport",
    "redisclusters": f"{__name__}.redis:ClusterTransport",
    "confluentkafka": f"{__name__}.confluentkafka:Transport",
    "kafka": f"{__name__}.confluentkafka:Transport",
    "consul": f"{__name__}.consul:Transport",
    "etcd": f"{__name__}.etcd:Transport",
    "mongodb": f"{__name__}.mongodb:Transport",
    "SQS": f"{__name__}.SQS:Transport",
    "sqs": f"{__name__}.SQS:Transport",
    "pgmq": f"{__name__}.pgmq:Transport",
    "zookeeper": f"{__name__}.zookeeper:Transport",
    "sqla": f"{__name__}.sqlalchemy:Transport",
    "sqlalchemy": f"{__name__}.sqlalchemy:Transport",
    # Kombu's names that nobody can connect to any more. They are names all the same: their URLs
    # are parsed and shown, and connecting says why it cannot be.
    "qpid": f"{__name__}.qpid:Transport",
    "SLMQ": f"{__name__}.SLMQ.Transport",
    "slmq": f"{__name__}.SLMQ.Transport",
}

# Modules whose transports cannot connect.
_UNAVAILABLE = tuple(f"{__name__}.{module}" for module in ("qpid", "SLMQ"))

_transport_cache: dict[Any, Any] = {}


def __getattr__(name: str) -> Any:
    # Stock Kombu finds our transport as "kombu_rs.transport:Transport".
    if name == "Transport":
        from .native import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _available() -> list[str]:
    """The names that lead to a transport that works."""
    return sorted(
        name
        for name, target in TRANSPORT_ALIASES.items()
        if not (isinstance(target, str) and target.startswith(_UNAVAILABLE))
    )


def supports_librabbitmq() -> bool | None:
    """Whether ``amqp://`` should use the C client librabbitmq: never, it lacks too much."""
    if _detect_environment() != "default":
        return None
    return False


def resolve_transport(transport: Any = None) -> type[base.Transport]:
    """Return the class of a transport.

    Arguments:
        transport: a name in :data:`TRANSPORT_ALIASES`, ``"module:Class"``, or a class (returned
            as it is).

    Raises:
        KeyError: there is no such name; says which ones there are.
        ImportError: the module cannot be imported.
        TypeError: it is neither text nor a class.
    """
    if not isinstance(transport, str):
        if not callable(transport):
            raise TypeError(f"a transport is a name, 'module:Class' or a class, got {transport!r}")
        return transport
    try:
        target = TRANSPORT_ALIASES[transport]
    except KeyError:
        if "." not in transport and ":" not in transport:
            raise KeyError(_no_such(transport)) from None
        target = transport
    if callable(target):
        target = target()
    return symbol_by_name(target)


def _no_such(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), TRANSPORT_ALIASES, n=1, cutoff=0.5)
    hint = f"  Did you mean {near[0]}?" if near else ""
    return f"No such transport: {name}.{hint}  Available: {', '.join(_available())}"


def get_transport_cls(transport: Any = None) -> type[base.Transport]:
    """As :func:`resolve_transport`, and remember the answer."""
    try:
        if transport not in _transport_cache:
            _transport_cache[transport] = resolve_transport(transport)
    except TypeError:  # not hashable: an instance of something
        return resolve_transport(transport)
    return _transport_cache[transport]
