"""An HTTP client of the standard library's, on threads."""

from __future__ import annotations

import gzip
import ssl
import urllib.error
import urllib.request
import zlib
from base64 import b64encode
from http.client import HTTPException
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

from ...exceptions import HttpError
from ...utils.encoding import str_to_bytes
from .. import get_event_loop
from ..crew import Call, Crew
from .base import BaseClient, Headers, Request

__all__ = ("ThreadClient",)

#: What a response has when there was none.
NO_RESPONSE = 599

SCHEMES = ("http", "https")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows as many redirections as the request says; further ones are the response."""

    def __init__(self, request: Request) -> None:
        self.left = request.max_redirects if request.follow_redirects else 0

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        self.left -= 1
        if self.left < 0 or urlsplit(newurl).scheme not in SCHEMES:
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and following.host != req.host:
            # Meant for the first host only.
            following.remove_header("Authorization")
        return following


class _Answer:
    """What came, until the event loop makes a :class:`Response` of it."""

    def __init__(self, raw: Any) -> None:
        self.code: int = raw.status
        self.reason: str = raw.reason
        self.url: str = raw.url
        self.lines = [f"{name}: {value}" for name, value in raw.headers.items()]
        self.body = _decoded(raw.read(), raw.headers.get("Content-Encoding", ""))


def _decoded(body: bytes, encoding: str) -> bytes:
    try:
        if encoding.lower() == "gzip":
            return gzip.decompress(body)
        if encoding.lower() == "deflate":
            return zlib.decompress(body)
    except (EOFError, OSError, zlib.error) as exc:
        raise HTTPException(f"the body is not {encoding}: {exc}") from exc
    return body


class ThreadClient(BaseClient):
    """A client whose requests wait on threads of their own.

    Arguments:
        hub (Hub): gets the responses; default: the current event loop.
        max_clients (int): most requests at the same time; further ones wait.

    Raises:
        RuntimeError: there is no event loop.
    """

    def __init__(self, hub: Any = None, max_clients: int = 10, **kwargs: Any) -> None:
        hub = hub or get_event_loop()
        if hub is None:
            raise RuntimeError("an HTTP client needs an event loop: there is none")
        super().__init__(hub, **kwargs)
        self.max_clients = max_clients
        self._crew = Crew(limit=max_clients)
        self._calls: set[Call] = set()

    def add_request(self, request: Request) -> Request:
        """Begin a request.

        Raises:
            ValueError: it says something that this client cannot do.
        """
        opener, prepared = _prepare(request)
        if request.on_prepare is not None:
            request.on_prepare(prepared)

        def fetch() -> _Answer:
            timeout = max(request.connect_timeout, request.request_timeout)
            try:
                with opener.open(prepared, timeout=timeout) as raw:
                    return _Answer(raw)
            except urllib.error.HTTPError as exc:  # an answer as well
                with exc:
                    return _Answer(exc)

        def done(answer: _Answer | None, error: BaseException | None) -> None:
            self._calls.discard(call)
            if answer is not None:
                self._on_answer(request, answer)
            elif isinstance(error, (OSError, HTTPException)):
                self._on_failure(request, error)
            elif error is not None:
                raise error

        call = Call(self.hub, fetch, done)
        self._calls.add(self._crew.submit(call))
        return request

    def _on_answer(self, request: Request, answer: _Answer) -> None:
        headers = self.Headers()
        for line in [*answer.lines, ""]:
            self.on_header(headers, line)
            if request.on_header is not None:
                request.on_header(line)
        body = answer.body
        if request.on_stream is not None:
            request.on_stream(body)
            body = b""
        request.on_ready(
            self.Response(
                request, answer.code, headers, BytesIO(body), answer.url, status=answer.reason
            )
        )

    def _on_failure(self, request: Request, error: Exception) -> None:
        if request.on_timeout is not None and _is_timeout(error):
            request.on_timeout(request)
        failure = HttpError(NO_RESPONSE, str(error) or type(error).__name__)
        response = self.Response(request, NO_RESPONSE, error=failure)
        failure.response = response
        request.on_ready(response)

    def close(self) -> None:
        """Begin no more requests, and forget those that run."""
        super().close()
        while self._calls:
            self._calls.pop().cancel()


def _is_timeout(error: BaseException) -> bool:
    return isinstance(getattr(error, "reason", error), TimeoutError)


def _prepare(request: Request) -> tuple[Any, urllib.request.Request]:
    """Return what opens a request, and the request as it takes it."""
    if urlsplit(request.url).scheme not in SCHEMES:
        raise ValueError(f"cannot request {request.url!r}: it is no http or https URL")
    if request.network_interface is not None:
        raise ValueError("network_interface is not supported: let the system's routes choose")
    if request.auth_mode not in (None, "basic"):
        raise ValueError(f"auth_mode {request.auth_mode!r} is not supported: only 'basic' is")
    headers = Headers(request.headers)
    if request.user_agent:
        headers.setdefault("User-Agent", request.user_agent)
    if request.use_gzip:
        headers.setdefault("Accept-Encoding", "gzip,deflate")
    if request.auth_username is not None:
        headers["Authorization"] = _basic(request.auth_username, request.auth_password)
    body = None if request.body is None else str_to_bytes(request.body)
    prepared = urllib.request.Request(
        request.url, data=body, headers=headers, method=request.method
    )
    handlers = [
        urllib.request.HTTPSHandler(context=_tls(request)),
        urllib.request.ProxyHandler(_proxies(request)),
        _Redirects(request),
    ]
    return urllib.request.build_opener(*handlers), prepared


def _basic(username: str, password: str | None) -> str:
    return "Basic " + b64encode(f"{username}:{password or ''}".encode()).decode("ascii")


def _tls(request: Request) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=request.ca_certs)
    if not request.validate_cert:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if request.client_cert is not None:
        context.load_cert_chain(request.client_cert, request.client_key)
    return context


def _proxies(request: Request) -> dict[str, str] | None:
    """Return the request's proxy; None for what the environment says."""
    if request.proxy_host is None:
        return None
    host = request.proxy_host
    if request.proxy_port is not None:
        host = f"{host}:{request.proxy_port}"
    if request.proxy_username is not None:
        user = quote(request.proxy_username, safe="")
        password = quote(request.proxy_password or "", safe="")
        host = f"{user}:{password}@{host}"
    return {"http": f"http://{host}", "https": f"http://{host}"}
