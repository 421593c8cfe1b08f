"""Broker URLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .._typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    import ssl


def __getattr__(name: str) -> Any:
    # The library is imported when the first URL is read.
    if name in ("parse_qsl", "quote", "unquote", "urlparse"):
        from urllib import parse

        return getattr(parse, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _quote(string: str, safe: str) -> str:
    from urllib.parse import quote

    return quote(string, safe=safe)


safequote: Callable[[str], str] = partial(_quote, safe="")

#: Set to false where Python was built without :mod:`ssl`; parameters about it are then ignored.
ssl_available = True


class urlparts(NamedTuple):
    """The parts of a URL, unquoted; what is not there is ``None``."""

    scheme: str
    hostname: str | None
    port: int | None
    username: str | None
    password: str | None
    path: str | None
    query: Mapping[str, str]


def url_to_parts(url: str) -> urlparts:
    """Take ``url`` apart.

    The path comes without its first slash, so ``redis://host//a`` has ``/a``.

    Raises:
        ValueError: if the port is not a number from 0 to 65535.
    """
    from urllib.parse import parse_qsl, unquote, urlparse

    scheme, colon, rest = url.partition(":")
    if not (colon and rest.startswith("//")):
        # No scheme: the text is taken to be a host, as `urlparse` does with `//`.
        scheme, rest = "", "//" + url
    try:
        # As http, for which every version of urllib splits query and fragment.
        parts = urlparse("http:" + rest)
        port = parts.port
    except ValueError:
        # Not chained: urllib's text shows what follows the last colon, which
        # is the password if that holds a character such as `#`.
        raise ValueError(
            f"cannot read host and port of the URL {_mask_anything(url)!r}: the port "
            "must be a number from 0 to 65535, and characters such as # / ? @ [ in "
            "user and password must be written as %23 %2F %3F %40 %5B"
        ) from None
    path = parts.path[1:] if parts.path.startswith("/") else parts.path
    return urlparts(
        scheme.lower(),
        unquote(parts.hostname or "") or None,
        port,
        unquote(parts.username or "") or None,
        unquote(parts.password or "") or None,
        unquote(path or "") or None,
        dict(parse_qsl(parts.query)),
    )


_parse_url = url_to_parts


def as_url(
    scheme: str,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    path: str | None = None,
    query: Any = None,
    sanitize: bool = False,
    mask: str | None = "**",
) -> str:
    """Put a URL together; ``query`` is left out.

    Arguments:
        sanitize: Write ``mask`` in place of the password.
    """
    url = f"{scheme}://"
    if user or password:
        url += safequote(user) if user else ""
        if password:
            shown = (mask or "") if sanitize else safequote(password)
            url += f":{shown}" if shown else ""
        url += "@"
    if host:
        url += f"[{host}]" if ":" in host else safequote(host)
    if port:
        url += f":{port}"
    return f"{url}/{path or ''}"


def sanitize_url(url: str, mask: str | None = "**") -> str:
    """Return ``url`` with ``mask`` in place of the password, and without its query."""
    parts = url_to_parts(url)
    return as_url(*parts, sanitize=True, mask=mask)


def _mask_anything(url: str, mask: str | None = "**") -> str:
    """Mask what may be a password in what cannot be parsed, rather too much than too little."""
    import re

    masked = re.sub(r"(?<=://)([^:@]*:).*(?=@)", lambda m: m[1] + (mask or ""), url, flags=re.S)
    return masked.partition("?")[0]


@overload
def maybe_sanitize_url(url: str, mask: str | None = "**") -> str: ...
@overload
def maybe_sanitize_url(url: Any, mask: str | None = "**") -> Any: ...
def maybe_sanitize_url(url: Any, mask: str | None = "**") -> Any:
    """Like :func:`sanitize_url`, for anything: what is no URL is returned as it is.

    Several URLs separated by ``;`` are masked one by one.
    """
    if not isinstance(url, str) or "://" not in url:
        return url
    if ";" in url:
        import re

        urls = re.split(r";(?=[\w+.:-]+://)", url)
        if len(urls) > 1:
            return ";".join(maybe_sanitize_url(each, mask) for each in urls)
    try:
        return sanitize_url(url, mask)
    except ValueError:
        return _mask_anything(url, mask)


def parse_ssl_cert_reqs(query_value: str) -> ssl.VerifyMode | None:
    """Return the :class:`ssl.VerifyMode` for ``CERT_REQUIRED``, ``required`` and so on.

    Returns:
        ``None`` where :mod:`ssl` is not available.

    Raises:
        KeyError: for another text.
    """
    if not ssl_available:
        return None
    # Not at the top: importing it takes as long as the rest of this package.
    try:
        import ssl
    except ImportError:
        return None
    modes = {
        "CERT_REQUIRED": ssl.CERT_REQUIRED,
        "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
        "CERT_NONE": ssl.CERT_NONE,
        "required": ssl.CERT_REQUIRED,
        "optional": ssl.CERT_OPTIONAL,
        "none": ssl.CERT_NONE,
    }
    try:
        return modes[query_value]
    except KeyError:
        raise KeyError(
            f"ssl_cert_reqs={query_value!r}: must be one of {', '.join(modes)}"
        ) from None


def _parse_bool(name: str, text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "t", "yes", "y", "on", "1"):
        return True
    if lowered in ("false", "f", "no", "n", "off", "0"):
        return False
    raise ValueError(f"{name}={text!r}: must be true or false")


def parse_url(url: str) -> dict[str, Any]:
    """Return the arguments of a connection that ``url`` stands for.

    Query parameters become arguments. Those that begin with ``ssl_`` are put
    together under ``ssl``.

    Raises:
        ValueError, KeyError: if a part cannot be read; the error names it.
    """
    parts = url_to_parts(url)
    query = dict(parts.query)
    ssl: dict[str, Any] = {}
    for name in [name for name in query if name.startswith("ssl_")]:
        ssl[name] = query.pop(name)
    if "ssl_cert_reqs" in ssl:
        ssl["ssl_cert_reqs"] = parse_ssl_cert_reqs(ssl["ssl_cert_reqs"])
    if "ssl_check_hostname" in ssl:
        ssl["ssl_check_hostname"] = _parse_bool("ssl_check_hostname", ssl["ssl_check_hostname"])
    if ssl:
        query["ssl"] = ssl  # type: ignore[assignment]
    return {
        "transport": parts.scheme,
        "hostname": parts.hostname,
        "port": parts.port,
        "userid": parts.username,
        "password": parts.password,
        "virtual_host": parts.path,
        **query,
    }
