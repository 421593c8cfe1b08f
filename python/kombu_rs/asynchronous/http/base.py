"""Requests, responses, and what all HTTP clients have."""

from __future__ import annotations

from collections.abc import Generator
from http.client import responses
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...exceptions import HttpError
from ...utils.encoding import bytes_to_str
from ...utils.functional import maybe_list

try:
    # Programs that have vine compare with its class.
    from vine import promise
except ImportError:
    from ..promise import promise

if TYPE_CHECKING:
    from ..hub import Hub

__all__ = ("Headers", "Response", "Request", "BaseClient")


def normalize_header(key: str) -> str:
    """Return the name of a header as it is usually written: ``Content-Type``."""
    return "-".join(part.capitalize() for part in key.split("-"))


def _promised(callback: Any) -> Any:
    """Return a promise of a callback; None and promises as they are."""
    if callback is None or hasattr(callback, "then"):
        return callback
    return promise(callback)


def _pass_on(*args: Any) -> Any:
    return args[0] if args else None


class Headers(dict[str, str]):
    """Headers by normalized name; of one that comes twice the last."""

    #: Whether the line after the last was seen.
    complete = False
    # The name that a continuation line belongs to.
    _prev_key: str | None = None


class Request:
    """A request.

    Arguments:
        url (str): what to request.
        method (str): default ``GET``.
        on_ready (Callable): called with the :class:`Response`, also when it is an error.
        on_timeout (Callable): called with the request when there was no response in time, before
            ``on_ready`` gets a response that says so.
        on_stream (Callable): called with the body, which is then not in the response.
        on_prepare (Callable): called with the client's own request before it is sent.
        on_header (Callable): called with each header line.
        headers (Mapping): what to send.
        kwargs: values for the attributes below.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "headers",
        "method",
        "on_header",
        "on_prepare",
        "on_ready",
        "on_stream",
        "on_timeout",
        "url",
    )

    #: What to send.
    body: Any = None
    user_agent: str | None = None
    #: Local interface to use.
    network_interface: str | None = None

    auth_username: str | None = None
    auth_password: str | None = None
    #: ``basic``, which is the default.
    auth_mode: str | None = None

    use_gzip = True
    #: Whether the server's certificate is checked.
    validate_cert = True
    #: File of authorities; default: the system's.
    ca_certs: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    #: Seconds.
    connect_timeout = 30.0
    request_timeout = 30.0

    follow_redirects = True
    max_redirects = 6

    proxy_host: str | None = None
    proxy_port: int | None = None
    proxy_username: str | None = None
    proxy_password: str | None = None

    def __init__(
        self,
        url: str,
        method: str = "GET",
        on_ready: Any = None,
        on_timeout: Any = None,
        on_stream: Any = None,
        on_prepare: Any = None,
        on_header: Any = None,
        headers: Any = None,
        **kwargs: Any,
    ) -> None:
        self.url = url
        self.method = method
        self.on_ready = _promised(_pass_on if on_ready is None else on_ready)
        self.on_timeout = _promised(on_timeout)
        self.on_stream = _promised(on_stream)
        self.on_prepare = _promised(on_prepare)
        self.on_header = _promised(on_header)
        self.headers = headers if isinstance(headers, Headers) else Headers(headers or {})
        for name, value in kwargs.items():
            setattr(self, name, value)

    def then(self, callback: Any, errback: Any = None) -> None:
        """Call ``callback`` with the response too."""
        self.on_ready.then(callback, errback)

    def __repr__(self) -> str:
        return f"<Request: {self.method} {self.url}>"


class Response:
    """A response.

    Arguments:
        request (Request): what it answers.
        code (int): HTTP status; 599 when there was no answer.
        headers (Headers): what came.
        buffer (io.BytesIO): has the body.
        effective_url (str): after redirections; default: the request's.
        error (Exception): why there was no answer.
        status (str): reason phrase; default: the usual one of ``code``.

    Attributes:
        error: an :exc:`~kombu_rs.exceptions.HttpError` when the code is not of the 200s.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "buffer",
        "code",
        "effective_url",
        "error",
        "headers",
        "request",
        "status",
    )

    def __init__(
        self,
        request: Request,
        code: int,
        headers: Any = None,
        buffer: Any = None,
        effective_url: str | None = None,
        error: Any = None,
        status: str | None = None,
    ) -> None:
        self.request = request
        self.code = code
        self.headers = headers if headers is not None else Headers()
        self.buffer = buffer
        self.effective_url = effective_url or request.url
        self.status = status or responses.get(code, "Unknown")
        self.error = error
        if error is None and not 200 <= code < 300:
            self.error = HttpError(code, self.status, self)
        self._body: bytes | None = None

    def raise_for_error(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            HttpError: the code is not of the 200s.
        """
        if self.error:
            raise self.error

    @property
    def body(self) -> bytes | None:
        """The whole body; None without a buffer."""
        if self._body is None and self.buffer is not None:
            self._body = self.buffer.getvalue()
        return self._body

    @property
    def status_code(self) -> int:
        """As :attr:`code`."""
        return self.code

    @property
    def content(self) -> bytes | None:
        """As :attr:`body`."""
        return self.body


def _parse_header(headers: Headers, line: str, keyt: Any) -> None:
    if not line:
        headers.complete = True
    elif line[0].isspace():
        if headers._prev_key is None:
            raise ValueError(f"header line {line!r} continues none")
        headers[headers._prev_key] += f" {line.strip()}"
    elif not line.startswith("HTTP/"):
        key, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"header line {line!r} has no colon")
        headers._prev_key = keyt(key.strip())
        headers[headers._prev_key] = value.strip()


def header_parser(keyt: Any = normalize_header) -> Generator[None, tuple[Any, Headers], None]:
    """A coroutine that is sent ``(line, headers)`` and puts the line into the headers.

    Arguments:
        keyt: makes the name of a header.
    """
    while True:
        line, headers = yield
        _parse_header(headers, bytes_to_str(line).rstrip("\r\n"), keyt)


def _started_parser() -> Generator[None, tuple[Any, Headers], None]:
    parser = header_parser()
    next(parser)
    return parser


class BaseClient:
    """Base of HTTP clients; closed together with its event loop.

    Arguments:
        hub (Hub): gets the responses.
    """

    Headers = Headers
    Request = Request
    Response = Response

    def __init__(self, hub: Hub, **kwargs: Any) -> None:
        self.hub = hub
        self._header_parser = _started_parser()
        hub.on_close.add(self._on_hub_close)

    def perform(self, request: Any, **kwargs: Any) -> None:
        """Begin requests.

        Arguments:
            request: a :class:`Request` or URL, or a list of such.
            kwargs: with a URL: what :class:`Request` takes.
        """
        for each in maybe_list(request) or []:
            if not isinstance(each, self.Request):
                each = self.Request(each, **kwargs)
            self.add_request(each)

    def add_request(self, request: Any) -> Any:
        """Begin a request; subclasses do that."""
        raise NotImplementedError("must implement add_request")

    def _detach_from_hub(self) -> None:
        self.hub.on_close.discard(self._on_hub_close)
        if getattr(self.hub, "_current_http_client", None) is self:
            del self.hub._current_http_client

    def _on_hub_close(self, hub: Hub) -> None:
        self._detach_from_hub()
        self.close()

    def close(self) -> None:
        """Begin no more requests, and forget those that run."""
        self._detach_from_hub()

    def on_header(self, headers: Any, line: Any) -> None:
        """Put a line of headers into ``headers``.

        Raises:
            ValueError: it is none.
        """
        try:
            self._header_parser.send((line, headers))
        except StopIteration:  # an error has ended it
            self._header_parser = _started_parser()
            self._header_parser.send((line, headers))

    def __enter__(self) -> BaseClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()
