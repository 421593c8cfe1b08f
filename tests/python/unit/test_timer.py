"""The schedule under the event loop."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from time import monotonic

import pytest

from kombu_rs.asynchronous.semaphore import LaxBoundedSemaphore
from kombu_rs.asynchronous.timer import Timer, to_timestamp


def fire(timer):
    """Make the calls that are due, return the seconds to the next."""
    for delay, entry in timer:
        if entry is None:
            return delay
        timer.apply_entry(entry)


def test_order_by_time_and_priority():
    timer, seen = Timer(), []
    timer.call_at(2, seen.append, ("late",))
    timer.call_at(1, seen.append, ("second",), priority=5)
    timer.call_at(1, seen.append, ("first",), priority=1)
    assert fire(timer) is None
    assert seen == ["first", "second", "late"]


def test_waits_no_longer_than_asked():
    timer = Timer(max_interval=3)
    timer.call_after(1, print)
    assert 0 < fire(timer) <= 1
    timer.clear()
    timer.call_after(100, print)
    assert fire(timer) == 3


def test_cancelled_entries_are_skipped():
    timer, seen = Timer(), []
    timer.call_after(-1, seen.append, (1,)).cancel()
    timer.cancel(timer.call_after(-1, seen.append, (2,)))
    assert fire(timer) is None
    assert seen == []


def test_repeated_call_goes_on_after_an_error_until_it_is_cancelled():
    timer, seen = Timer(), []

    def tick():
        seen.append(1)
        raise ValueError("goes on")

    entry = timer.call_repeatedly(60, tick)
    for count in (1, 2):
        (scheduled,) = timer.queue
        assert scheduled.entry is entry
        assert scheduled.eta - monotonic() == pytest.approx(60, abs=1)
        timer.clear()
        timer.apply_entry(entry)
        assert len(seen) == count
    entry.cancel()
    timer.clear()
    timer.apply_entry(entry)
    assert timer.queue == []


def test_datetimes():
    now = datetime.now(timezone.utc)
    assert to_timestamp(now + timedelta(seconds=5)) == pytest.approx(monotonic() + 5, abs=0.5)
    assert to_timestamp(now.replace(tzinfo=None)) == pytest.approx(monotonic(), abs=0.5)
    assert to_timestamp(datetime(1970, 1, 1)) == 0
    assert to_timestamp(1.5) == 1.5


def test_errors_go_to_the_handler():
    errors = []
    timer = Timer(on_error=errors.append)
    timer.apply_entry(lambda: 1 / 0)
    assert isinstance(errors[0], ZeroDivisionError)


def test_semaphore_serves_waiters_in_order():
    seen = []
    gate = LaxBoundedSemaphore(1)
    for number in range(3):
        gate.acquire(seen.append, number)
    assert seen == [0]
    for _ in range(5):
        gate.release()
    assert seen == [0, 1, 2]
    assert gate.value == gate.initial_value == 1
