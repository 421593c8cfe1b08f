"""Every option of Kombu's Redis transport is in the documentation, with what it does here."""

from __future__ import annotations

from pathlib import Path

from kombu_rs.transport.redis import Channel

PAGE = Path(__file__).parents[3] / "docs" / "transports.md"


def test_the_options_of_redis_are_documented():
    page = PAGE.read_text()
    assert [name for name in Channel.from_transport_options if f"`{name}`" not in page] == []
