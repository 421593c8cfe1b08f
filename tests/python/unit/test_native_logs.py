"""What the native core logs reaches Python's logging."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from kombu_rs import Connection
from kombu_rs.exceptions import DecodeError


def test_an_unreadable_message_is_logged_raised_once_and_does_not_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broker.sqlite"
    with Connection(f"sqla+sqlite:///{path}") as connection:
        channel = connection.channel()
        channel.queue_declare("q")
        for body in ({"n": 1}, {"n": 2}):
            message = channel.prepare_message("x", content_type="text/plain")
            message["headers"] = body
            channel.basic_publish(message, exchange="", routing_key="q")
        with sqlite3.connect(path) as database:
            database.execute(
                "UPDATE kombu_message SET payload = '{\"body\"' WHERE id ="
                " (SELECT min(id) FROM kombu_message)"
            )
        database.close()
        with caplog.at_level(logging.ERROR), pytest.raises(DecodeError):
            channel.basic_get("q")
        [record] = caplog.records
        assert record.name == "kombu.transport.sql"
        assert record.levelname == "ERROR"
        assert "message 1 in queue" in record.getMessage()
        readable = channel.basic_get("q")
        assert readable.headers == {"n": 2}
        readable.ack()
        assert channel.basic_get("q") is None
