"""Pattern matching registry, used to address workers by pattern."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from re import match as rematch
from typing import Any, ClassVar

from .utils.compat import entrypoints
from .utils.encoding import bytes_to_str

MatcherFunction = Callable[..., Any]


class MatcherNotInstalled(Exception):
    """No matcher is registered under that name."""


class MatcherRegistry:
    """Named functions that tell whether data matches a pattern."""

    MatcherNotInstalled = MatcherNotInstalled
    #: Names of matchers that take the pattern as their first argument.
    matcher_pattern_first: ClassVar[list[str]] = ["pcre"]

    def __init__(self) -> None:
        self._matchers: dict[str, MatcherFunction] = {}
        self._default_matcher: MatcherFunction = fnmatch

    def register(self, name: str, matcher: MatcherFunction) -> None:
        """Add ``matcher`` as ``name``, or replace it."""
        self._matchers[name] = matcher

    def unregister(self, name: str) -> None:
        """Remove the matcher ``name``.

        Raises:
            MatcherNotInstalled: if there is none.
        """
        self._get(name)
        del self._matchers[name]

    def _set_default_matcher(self, name: str) -> None:
        self._default_matcher = self._get(name)

    def _get(self, name: str) -> MatcherFunction:
        try:
            return self._matchers[name]
        except KeyError:
            # Third-party matchers are looked for when one is asked for that
            # is not ours: the search takes longer than importing this package.
            for entry_point, args in entrypoints("kombu.matchers"):
                if entry_point.name not in self._matchers:
                    self.register(entry_point.name, *args)
            if name in self._matchers:
                return self._matchers[name]
            raise self.MatcherNotInstalled(
                f"No matcher installed for {name}; installed are: "
                f"{', '.join(sorted(self._matchers))}"
            ) from None

    def match(
        self,
        data: Any,
        pattern: Any,
        matcher: str | None = None,
        matcher_kwargs: dict[str, Any] | None = None,
    ) -> bool:
        """Return true (or the match) if ``data`` matches ``pattern``.

        Arguments:
            matcher: Name of the matcher; default ``glob``.
            matcher_kwargs: Further arguments for it.

        Raises:
            MatcherNotInstalled: if there is none of that name.
        """
        function = self._get(matcher) if matcher else self._default_matcher
        data, pattern = bytes_to_str(data), bytes_to_str(pattern)
        if matcher in self.matcher_pattern_first:
            data, pattern = pattern, data
        return function(data, pattern, **(matcher_kwargs or {}))


#: The registry that the functions of this module use.
registry: MatcherRegistry = MatcherRegistry()

match = registry.match
register = registry.register
unregister = registry.unregister


def register_glob() -> None:
    """Register shell patterns (:mod:`fnmatch`) as ``glob``."""
    registry.register("glob", fnmatch)


def register_pcre() -> None:
    """Register regular expressions (:mod:`re`) as ``pcre``."""
    registry.register("pcre", rematch)


register_glob()
register_pcre()
registry._set_default_matcher("glob")
