"""Client libraries that only some transports need."""

from __future__ import annotations

__all__ = ("missing",)


def missing(transport: str, packages: str, extra: str) -> ImportError:
    """Return the error of a transport whose client library is not installed.

    Arguments:
        transport: the transport's name.
        packages: what it needs, as the package index calls it.
        extra: the extra of kombu-rs that installs it.
    """
    return ImportError(
        f"the transport {transport!r} needs {packages}: pip install 'kombu-rs[{extra}]'"
    )
