"""Our transport in an installed Kombu, which otherwise stays as it is."""

from __future__ import annotations

__all__ = ("register",)

#: What may stand behind the prefix of an alternate.
_SCHEMES = (
    *("amqp", "amqps", "pyamqp", "librabbitmq", "memory"),
    *("redis", "rediss", "redis+socket", "sentinel", "rediscluster", "redisclusters"),
    "sqla+sqlite",
)


def register(name: str = "kombu-rs") -> None:
    """Teach an installed Kombu the URL prefix ``kombu-rs+``, as in ``kombu-rs+redis://host/0``.

    Celery's ``broker_url`` takes it too. Kombu makes this call itself when it imports
    :mod:`kombu.serialization`, which Celery does at its start and Kombu's producers and consumers
    do; who makes a bare ``Connection`` calls it before. Calling it again does nothing.
    ``transport="kombu_rs.transport:Transport"`` (in Celery: ``broker_transport``) beside the plain
    URL does the same without any call.

    Arguments:
        name: another prefix; no dots and colons, which Kombu takes for a Python path.

    Raises:
        ValueError: there is a dot, colon or plus in ``name``.
        ModuleNotFoundError: Kombu is not installed.
        RuntimeError: ``kombu`` is this package already: it knows its transports.
    """
    if not name or set(name) & set(".:+/"):
        raise ValueError(f"a URL prefix without dots, colons, slashes and plus, got {name!r}")
    import kombu.transport

    if kombu.__name__ != "kombu":
        raise RuntimeError(
            "kombu is kombu-rs in this process: redis://, memory:// and sqla+sqlite:// are ours"
        )
    aliases = kombu.transport.TRANSPORT_ALIASES
    aliases[name] = "kombu_rs.transport:Transport"
    # Kombu takes the URL of an alternate apart when it switches to it.
    for scheme in _SCHEMES:
        aliases[f"{name}+{scheme}"] = "kombu_rs.transport._alternate:Transport"
