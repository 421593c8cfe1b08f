"""What may be in a broker's URL."""

from __future__ import annotations

from ._typing import Any

# What a URL may set, in its parts or as ?name=value.
_URL_PARAMS = frozenset(
    {
        "hostname",
        "userid",
        "password",
        "virtual_host",
        "port",
        "insist",
        "ssl",
        "transport",
        "connect_timeout",
        "login_method",
        "heartbeat",
        "credential_provider",
    }
)


def _check_url_transport(name: str) -> str:
    """Refuse a URL scheme that could be read as something to import.

    URLs come from configuration and environment; only ``transport=`` names Python classes.

    Raises:
        ValueError: there is a dot or colon in it.
    """
    if "." in name or ":" in name:
        raise ValueError(
            f"Invalid transport scheme: {name!r}. A URL names a transport by its alias; "
            "give a class as transport='module:Class'"
        )
    return name


def _scheme(url: str) -> str:
    """What stands before ``://`` (or before ``+``), as written."""
    return url[: url.index("://")].split("+", 1)[0]


def _seconds(option: str, value: Any) -> float | None:
    """A duration that may have come as text in a URL."""
    if value is None or isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{option} must be a number of seconds, got {value!r}") from None


def _split_hosts(hostname: Any) -> list[str]:
    """All the hosts and URLs in ``hostname``, in order."""
    if not hostname:
        return []
    if isinstance(hostname, str):
        hostname = [hostname]
    try:
        entries = list(hostname)
    except TypeError:
        entries = [hostname]
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"Connection: a broker is a URL or host name (text), got {entry!r}")
    return [part for entry in entries for part in entry.split(";") if part]


def _check_url_options(parsed: dict[str, Any]) -> None:
    """Refuse options that a connection does not have.

    Raises:
        TypeError: there is one.
    """
    unknown = sorted(set(parsed) - _URL_PARAMS)
    if unknown:
        known = sorted(_URL_PARAMS - {"hostname", "transport"})
        raise TypeError(
            f"Connection got an unexpected URL option {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(known)}. Options of the transport go into "
            "transport_options"
        )
