"""Who makes user and password of a connection to a broker that speaks AMQP."""

from __future__ import annotations

from .._typing import Any
from ..utils.imports import symbol_by_name

__all__ = ("Credentials",)


class Credentials:
    """What a connection logs in with, asked for anew for each log-in."""

    def __init__(self) -> None:
        # A name and what was made of it: a provider may keep tokens until they expire.
        self._made: tuple[str, Any] | None = None

    def get(self, parts: Any) -> tuple[str, Any]:
        """Return user and password.

        Arguments:
            parts: with ``userid`` and ``password``, which may be a function, and maybe
                ``credential_provider``: an object with ``get_credentials()``, as redis-py has them,
                or the name of its class, ``"package.module.Class"``. It returns user and password,
                or the password alone.

        Raises:
            ImportError: there is no such class.
            TypeError: it has no ``get_credentials()``, or that returns something else.
        """
        provider = self._provider(getattr(parts, "credential_provider", None))
        if provider is None:
            password = parts.password
            return parts.userid, password() if callable(password) else password
        given = provider.get_credentials()
        if not isinstance(given, (tuple, list)) or len(given) not in (1, 2):
            raise TypeError(
                f"get_credentials() of the credential_provider {provider!r} must return "
                f"(user, password) or (password,), not a {type(given).__name__}"
            )  # without the value: it is a secret
        user, password = given if len(given) == 2 else (None, *given)
        return user or parts.userid, password

    def _provider(self, given: Any) -> Any:
        if not given:
            return None
        provider = given
        if isinstance(given, str):
            if self._made is None or self._made[0] != given:
                self._made = (given, _named(given)())
            provider = self._made[1]
        if not callable(getattr(provider, "get_credentials", None)):
            raise TypeError(
                "credential_provider must be an object with get_credentials(), or the name of its "
                f"class, not {given!r}"
            )
        return provider


def _named(name: str) -> Any:
    try:
        return symbol_by_name(name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImportError(f"credential_provider {name!r} cannot be imported: {exc}") from exc
