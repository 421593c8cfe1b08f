"""Transports that Kombu names and that cannot connect here.

A connection to one may be made, copied, shown and compared, as configuration code does.
Connecting raises :exc:`TransportNotAvailable`. No installed Kombu is used instead.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from ..exceptions import OperationalError
from . import base

__all__ = ("TransportNotAvailable", "UnavailableTransport")


class TransportNotAvailable(OperationalError, NotImplementedError):
    """Kombu has a transport of that name, and it cannot be used here; the text says why.

    Not one of a transport's ``connection_errors``: trying again does not help.
    """


class UnavailableTransport(base.Transport):
    """The shape of a transport that cannot connect."""

    #: Why, in words that go on after "The transport 'x' is not available".
    reason: ClassVar[str] = ""
    #: Parts of a URL that Kombu fills in when they are missing.
    defaults: ClassVar[dict[str, Any]] = {}

    def _refuse(self) -> NoReturn:
        from . import _available

        raise TransportNotAvailable(
            f"The transport {self._name()!r} is not available{self.reason}. "
            f"Available: {', '.join(_available())}"
        )

    def _name(self) -> str:
        name = getattr(self.client, "transport_cls", None)
        return name if isinstance(name, str) else self.driver_type

    def establish_connection(self) -> NoReturn:
        """Raise :exc:`TransportNotAvailable`."""
        self._refuse()

    def verify_connection(self, connection: Any) -> bool:
        """Never connected."""
        return False

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        from ..utils.url import maybe_sanitize_url

        return uri if include_password else maybe_sanitize_url(uri, mask=mask)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that Kombu fills in when they are missing."""
        return dict(self.defaults)
