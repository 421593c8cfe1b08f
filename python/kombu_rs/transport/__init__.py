"""Transports by name."""

from __future__ import annotations

from typing import Any

from ..utils.compat import _detect_environment
from ..utils.imports import symbol_by_name

__all__ = ("TRANSPORT_ALIASES", "get_transport_cls", "resolve_transport", "supports_librabbitmq")

#: Transports that work, by URL scheme. A value is ``"module:Class"`` or a function that returns
#: one. Programs may add their own.
TRANSPORT_ALIASES: dict[str, Any] = {
    "filesystem": f"{__name__}.filesystem:Transport",
    "memory": f"{__name__}.memory:Transport",
    "pyro": f"{__name__}.pyro:Transport",
    "redis": f"{__name__}.redis:Transport",
    "rediss": f"{__name__}.redis:Transport",
    "mongodb": f"{__name__}.mongodb:Transport",
    "sqla": f"{__name__}.sqlalchemy:Transport",
    "sqlalchemy": f"{__name__}.sqlalchemy:Transport",
    # Kombu's names that have no transport here yet. They are names all the same: their URLs
    # are parsed and shown, and connecting says what is there instead.
    "amqp": f"{__name__}.pending:AMQP",
    "amqps": f"{__name__}.pending:AMQPS",
    "pyamqp": f"{__name__}.pending:AMQP",
    "librabbitmq": f"{__name__}.pending:AMQP",
    "confluentkafka": f"{__name__}.pending:Kafka",
    "kafka": f"{__name__}.pending:Kafka",
    "SQS": f"{__name__}.pending:SQS",
    "sqs": f"{__name__}.pending:SQS",
    "zookeeper": f"{__name__}.pending:Zookeeper",
    "SLMQ": f"{__name__}.pending:SLMQ",
    "slmq": f"{__name__}.pending:SLMQ",
    "qpid": f"{__name__}.pending:Qpid",
    "sentinel": f"{__name__}.pending:Sentinel",
    "consul": f"{__name__}.pending:Consul",
    "etcd": f"{__name__}.pending:Etcd",
    "azurestoragequeues": f"{__name__}.pending:AzureStorageQueues",
    "azureservicebus": f"{__name__}.pending:AzureServiceBus",
    "gcpubsub": f"{__name__}.pending:GCPubSub",
    "pgmq": f"{__name__}.pending:PGMQ",
}

_transport_cache: dict[Any, Any] = {}


def __getattr__(name: str) -> Any:
    # Stock Kombu finds our transport as "kombu_rs.transport:Transport".
    if name == "Transport":
        from .native import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _available() -> list[str]:
    """The names that lead to a transport that works."""
    pending = f"{__name__}.pending:"
    return sorted(
        name
        for name, target in TRANSPORT_ALIASES.items()
        if not (isinstance(target, str) and target.startswith(pending))
    )


def supports_librabbitmq() -> bool | None:
    """Whether ``amqp://`` should use the C library librabbitmq: never, ours is native itself."""
    if _detect_environment() != "default":
        return None
    return False


def resolve_transport(transport: Any = None) -> Any:
    """Return the class of a transport.

    Arguments:
        transport: a name in :data:`TRANSPORT_ALIASES`, ``"module:Class"``, or a class (returned
            as it is).

    Raises:
        KeyError: there is no such name; says which ones there are.
        ImportError: the module cannot be imported.
    """
    if not isinstance(transport, str):
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


def get_transport_cls(transport: Any = None) -> Any:
    """As :func:`resolve_transport`, and remember the answer."""
    try:
        if transport not in _transport_cache:
            _transport_cache[transport] = resolve_transport(transport)
    except TypeError:  # not hashable: an instance of something
        return resolve_transport(transport)
    return _transport_cache[transport]
