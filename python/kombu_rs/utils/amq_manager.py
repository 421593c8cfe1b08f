"""RabbitMQ's management API."""

from __future__ import annotations

from .._typing import Any


def get_manager(
    client: Any,
    hostname: str | None = None,
    port: int | str | None = None,
    userid: str | None = None,
    password: str | None = None,
) -> Any:
    """Return a ``pyrabbit.Client`` for the broker of ``client``.

    Each argument falls back to the transport option ``manager_<argument>`` of
    the connection, then to the connection's own value (port: 15672).

    Raises:
        ImportError: if pyrabbit is not installed.
    """
    import pyrabbit

    def option(name: str, given: Any, fallback: Any) -> Any:
        if given is not None:
            return given
        value = client.transport_options.get(f"manager_{name}")
        return fallback if value is None else value

    host = option("hostname", hostname, client.hostname or "localhost")
    port = option("port", port, 15672)
    secret = option("password", password, client.password or "guest")
    return pyrabbit.Client(
        f"{host}:{port}",
        option("userid", userid, client.userid or "guest"),
        secret() if callable(secret) else secret,
    )
