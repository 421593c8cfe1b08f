"""Every option of Kombu's Redis and AMQP transports is documented, with what it does here."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import amqp
import pytest
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


def test_the_memory_transport_takes_those_of_others_and_no_unknown_ones():
    """Programs pass what is meant for their real broker in tests."""
    names = {*signature(amqp.Connection.__init__).parameters, *Channel.from_transport_options}
    names -= {"self", "kwargs", "host", "userid", "password", "virtual_host"}
    names -= {name for name in names if name.startswith("on_")}  # functions
    names -= {"frame_handler", "frame_writer"}  # errors with AMQP, too
    with Connection("memory://", transport_options=dict.fromkeys(names, 1)) as connection:
        connection.connect()
    with (
        Connection("memory://", transport_options={"visibility_timout": 1}) as connection,
        pytest.raises(ValueError, match='no option "visibility_timout"'),
    ):
        connection.connect()
