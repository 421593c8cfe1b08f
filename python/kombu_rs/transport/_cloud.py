"""What the transports over cloud services share: options, credentials by name, messages' text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..utils.json import loads
from ._libraries import missing

__all__ = ("close_quietly", "identity_name", "make_identity", "number_option", "read_payload")

#: Credentials that a URL can name instead of a key; they are classes of ``azure.identity``.
IDENTITIES = ("DefaultAzureCredential", "ManagedIdentityCredential")


def identity_name(text: str) -> str | None:
    """Return which of :data:`IDENTITIES` ``text`` names, in any case; None: it is a key."""
    return next((name for name in IDENTITIES if name.lower() == text.lower()), None)


def make_identity(transport: str, name: str) -> Any:
    """Return a new credential of ``azure.identity``.

    Arguments:
        transport: who needs it, for the error.
        name: one of :data:`IDENTITIES`.

    Raises:
        ImportError: azure-identity is not installed.
    """
    try:
        from azure import identity
    except ImportError:
        raise missing(transport, "azure-identity", transport) from None
    return getattr(identity, name)()


def close_quietly(logger: logging.Logger, what: str, thing: Any) -> None:
    """Close something; an error is logged, since other things are to be closed after it.

    Arguments:
        logger: where to.
        what: its name there.
        thing: has a method ``close``.
    """
    try:
        thing.close()
    except Exception:
        logger.exception("%s could not be closed", what)


def number_option(
    options: Mapping[str, Any],
    name: str,
    default: float,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """Return a transport option that is a number, or its default.

    Arguments:
        options: the transport options; numbers may be written as text, as environments do.
        name: the option.
        default: its value when it is missing or None.
        above: it must be more than this.
        least: it must be at least this.
        most: it must be at most this.

    Raises:
        ValueError: it is something else; names the option.
    """
    value = options.get(name)
    if value is None:
        return default
    number = value
    if isinstance(value, str):
        try:
            number = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            number = None
    wanted = "a number"
    if above is not None:
        wanted += f" above {above}"
    if least is not None:
        wanted += f" of at least {least}"
    if most is not None:
        wanted += f" and at most {most}"
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or number != number
        or (above is not None and number <= above)
        or (least is not None and number < least)
        or (most is not None and number > most)
    ):
        raise ValueError(f"transport option {name!r} must be {wanted}, got {value!r}")
    return number


def read_payload(text: str | bytes, queue: str) -> dict[str, Any]:
    """Return the message that ``text`` is.

    Arguments:
        text: as it came from the service.
        queue: where from, for the error.

    Raises:
        ValueError: it is not a message of Kombu's.
    """
    try:
        payload = loads(text)
    except ValueError as exc:
        raise ValueError(f"a message in queue {queue!r} is not JSON: {exc}") from None
    properties = payload.get("properties") if isinstance(payload, dict) else None
    if not isinstance(properties, dict):
        raise ValueError(f"a message in queue {queue!r} has no properties: it is not Kombu's")
    if not isinstance(properties.setdefault("delivery_info", {}), dict):
        raise ValueError(f"a message in queue {queue!r} has delivery_info that is no object")
    return payload
