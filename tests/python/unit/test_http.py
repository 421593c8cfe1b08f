"""HTTP requests of an event loop."""

from __future__ import annotations

import gzip
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kombu_rs.asynchronous import Hub, http, set_event_loop
from kombu_rs.asynchronous.http.base import normalize_header
from kombu_rs.asynchronous.http.threads import ThreadClient
from kombu_rs.exceptions import HttpError
from servers.process import wait_until


class Handler(BaseHTTPRequestHandler):
    """Says what it was asked."""

    def do_GET(self):
        handle = getattr(self, self.path.strip("/").partition("/")[0], None)
        if handle is None:
            self.send_error(404)
        else:
            handle()

    do_POST = do_PUT = do_GET

    def answer(self, body, code=200, **headers):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def echo(self):
        length = int(self.headers.get("Content-Length", 0))
        seen = f"{self.command} {self.headers.get('X-A')} {self.headers.get('User-Agent')} "
        self.answer(seen.encode() + self.rfile.read(length), X_B="1")

    def zipped(self):
        self.answer(gzip.compress(b"long" * 100), Content_Encoding="gzip")

    def torn(self):
        self.answer(b"no gzip", Content_Encoding="gzip")

    def again(self):
        left = int(self.path.rpartition("/")[2])
        self.answer(b"", 302, Location=f"/again/{left - 1}" if left else "/echo")

    def local(self):
        self.answer(b"", 302, Location="file:///etc/hostname")

    def secret(self):
        self.answer(b64decode(self.headers["Authorization"].partition(" ")[2]))

    def hang(self):
        self.server.release.wait(10)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub():
    hub = Hub()
    set_event_loop(hub)
    yield hub
    hub.close()
    set_event_loop(None)


@pytest.fixture
def fetch(hub):
    """Makes a request and returns the response."""

    def fetch(url, **kwargs):
        responses = []
        client = http.get_client()
        client.perform(url, on_ready=responses.append, **kwargs)
        wait_until(lambda: hub.run_once() or responses)
        return responses[0]

    return fetch


def test_request_and_response(server, fetch):
    response = fetch(
        f"{server}/echo", method="PUT", body="ä", headers={"x-a": "1"}, user_agent="me"
    )
    assert (response.code, response.status) == (200, "OK")
    assert response.body == response.content == "PUT 1 me ä".encode()
    assert response.headers["X-B"] == "1"
    assert response.headers.complete
    response.raise_for_error()


def test_gzip(server, fetch):
    assert fetch(f"{server}/zipped").body == b"long" * 100
    assert "the body is not gzip" in str(fetch(f"{server}/torn").error)


def test_error_is_a_response(server, fetch):
    response = fetch(f"{server}/nothing")
    assert response.code == response.status_code == 404
    with pytest.raises(HttpError, match="HTTP 404: Not Found"):
        response.raise_for_error()


def test_redirections(server, fetch):
    response = fetch(f"{server}/again/3")
    assert (response.code, response.effective_url) == (200, f"{server}/echo")
    assert fetch(f"{server}/again/9", max_redirects=2).code == 302
    assert fetch(f"{server}/again/1", follow_redirects=False).code == 302
    # To files it goes for nobody.
    assert fetch(f"{server}/local").code == 302


def test_password(server, fetch):
    response = fetch(f"{server}/secret", auth_username="u", auth_password="p:w")
    assert response.body == b"u:p:w"


def test_header_and_body_callbacks(server, fetch):
    lines, chunks = [], []
    response = fetch(f"{server}/echo", on_header=lines.append, on_stream=chunks.append)
    assert "X-B: 1" in lines
    assert b"".join(chunks).startswith(b"GET")
    assert response.body == b""


def test_no_answer_in_time(server, fetch):
    late = []
    response = fetch(
        f"{server}/hang", connect_timeout=0.1, request_timeout=0.1, on_timeout=late.append
    )
    assert response.code == 599
    assert late == [response.request]
    with pytest.raises(HttpError, match="timed out"):
        response.raise_for_error()


def test_nobody_there(fetch):
    response = fetch("http://127.0.0.1:1/")
    assert response.code == 599
    assert "refused" in str(response.error)


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("file:///etc/hostname", {}, "no http or https URL"),
        ("http://h", {"network_interface": "eth0"}, "network_interface"),
        ("http://h", {"auth_mode": "digest"}, "auth_mode 'digest'"),
    ],
)
def test_what_it_cannot_do(hub, url, options, text):
    with pytest.raises(ValueError, match=text):
        http.get_client().perform(url, **options)


def test_client_of_a_loop(hub):
    client = http.get_client()
    assert isinstance(client, ThreadClient)
    assert http.get_client(hub) is client
    hub.reset()
    assert http.get_client(hub) is not client
    set_event_loop(None)
    with pytest.raises(RuntimeError, match="needs an event loop"):
        http.get_client()


def test_closed_client_forgets_its_requests(server, hub):
    with http.Client() as client:
        client.perform(f"{server}/echo", on_ready=pytest.fail)
    hub.call_later(0.2, lambda: None)
    hub.run_once()
    assert client._calls == set()


def test_header_lines():
    client = http.BaseClient(Hub())
    headers = http.Headers()
    for line in ("HTTP/1.1 200 OK", b"a-b: 1\r\n", "C:", "  more", "c: 2"):
        client.on_header(headers, line)
    assert headers == {"A-B": "1", "C": "2"}
    for line in ("nothing", " \tfirst"):
        with pytest.raises(ValueError, match="header line"):
            client.on_header(http.Headers(), line)
    client.on_header(headers, "")
    assert headers.complete
    assert normalize_header("x-aMZ-date") == "X-Amz-Date"
