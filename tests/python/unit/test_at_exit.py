"""What is given back at the end of the process, and how long that may take."""

from __future__ import annotations

from weakref import WeakSet

import pytest

from kombu_rs.transport import _at_exit


class Clock:
    """The time, which passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Channel:
    """A channel whose broker is gone, or there."""

    do_restore = True

    def __init__(self, clock: Clock, connection: object, gone: bool) -> None:
        self.clock, self.connection, self.gone = clock, connection, gone
        self.had: float | None = None

    def _close(self, restore: bool, patience: float) -> None:
        assert restore
        self.had = patience
        if self.gone:
            self.clock.now += patience
            raise TimeoutError


def test_brokers_that_are_gone_have_one_deadline_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, kept = Clock(), WeakSet[Channel]()
    monkeypatch.setattr(_at_exit, "time", clock)
    monkeypatch.setattr(_at_exit, "_open", kept)
    gone, there = [object(), object(), object()], object()
    channels = [Channel(clock, connection, True) for connection in gone for _ in range(20)]
    channels += [Channel(clock, there, False) for _ in range(20)]
    for channel in channels:
        _at_exit.remember(channel)
    _at_exit._close_all()
    assert clock.now <= 1000 + _at_exit.PATIENCE + 1e-6
    assert all(channel.had is not None for channel in channels)
    healthy = [channel.had for channel in channels if not channel.gone]
    assert min(had for had in healthy if had is not None) > 0.4, "a share, whoever comes before"
    assert len(caplog.records) == 60
