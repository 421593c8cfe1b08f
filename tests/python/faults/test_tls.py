"""TLS on Redis: verified by default, and an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from kombu_rs import Connection
from kombu_rs.exceptions import OperationalError
from servers.certificates import Authority
from servers.redis import RedisServer

SECRET = "do-not-show"


def connect(url: str) -> None:
    """Publishes and receives one message."""
    with Connection(url, connect_timeout=5) as connection:
        queue = connection.SimpleQueue("tls")
        queue.put({"n": 1})
        message = queue.get(timeout=5)
        assert message.payload == {"n": 1}
        message.ack()
        queue.close()


def refusal(url: str) -> str:
    """What connecting says."""
    connection = Connection(url, connect_timeout=5)
    with pytest.raises(OperationalError) as raised:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    assert SECRET not in str(raised.value)
    return str(raised.value)


def test_the_right_authority(new_redis: Callable[..., RedisServer], authority: Authority) -> None:
    connect(new_redis(tls=authority, password=SECRET).url())


def test_another_authority(
    new_redis: Callable[..., RedisServer], authority: Authority, tmp_path: Path
) -> None:
    server = new_redis(tls=authority, password=SECRET)
    other = Authority(tmp_path / "other", name="somebody else")
    url = server.url().replace(quote(str(authority.ca), safe=""), quote(str(other.ca), safe=""))
    assert "UnknownIssuer" in refusal(url)


def test_another_host(new_redis: Callable[..., RedisServer], authority: Authority) -> None:
    certificate = authority.issue("by-name", hosts=("DNS:localhost",))
    server = new_redis(tls=authority, certificate=certificate, password=SECRET)
    assert "not valid for" in refusal(server.url().replace("@localhost:", "@127.0.0.1:"))


def test_a_plain_server(new_redis: Callable[..., RedisServer], authority: Authority) -> None:
    server = new_redis(password=SECRET)
    ca = quote(str(authority.ca), safe="")
    url = f"rediss://:{SECRET}@localhost:{server.port}/0?ssl_ca_certs={ca}"
    assert "TLS" in refusal(url)


def test_a_certificate_of_our_own(
    new_redis: Callable[..., RedisServer], authority: Authority, tmp_path: Path
) -> None:
    server = new_redis(tls=authority, password=SECRET)
    server.command("CONFIG", "SET", "tls-auth-clients", "yes")
    certificate, key = authority.issue("client")
    named = (
        f"&ssl_certfile={quote(str(certificate), safe='')}&ssl_keyfile={quote(str(key), safe='')}"
    )
    connect(server.url() + named)
    refusal(server.url())
    stranger, its_key = Authority(tmp_path / "other", name="somebody else").issue("stranger")
    refusal(
        f"{server.url()}&ssl_certfile={quote(str(stranger), safe='')}"
        f"&ssl_keyfile={quote(str(its_key), safe='')}"
    )
