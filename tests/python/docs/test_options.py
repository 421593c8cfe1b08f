"""Every option of Kombu's Redis and AMQP transports is documented, with what it does here."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import amqp
from amqp.transport import SSLTransport

from kombu_rs import Connection
from kombu_rs.transport.redis import Channel

PAGE = Path(__file__).parents[3] / "docs" / "transports.md"


def test_the_options_of_redis_are_documented():
    page = PAGE.read_text()
    assert [name for name in Channel.from_transport_options if f"`{name}`" not in page] == []


def test_the_options_of_py_amqp_are_documented():
    page = PAGE.read_text()
    names = {*signature(amqp.Connection.__init__).parameters} - {"self", "kwargs", "host"}
    names |= {*signature(SSLTransport._wrap_socket_sni).parameters} - {"self", "sock"}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_the_memory_transport_takes_any():
    """Programs pass what is meant for their real broker in tests."""
    options = {"visibility_timeout": 1, "client-config": {}, "of_a_plugin": 1}
    with Connection("memory://", transport_options=options) as connection:
        connection.connect()
        assert connection.connected
