"""Caches, lazy values, retries."""

from __future__ import annotations

import pickle
from itertools import islice

import pytest

from kombu_rs.utils import functional
from kombu_rs.utils.functional import (
    ChannelPromise,
    LRUCache,
    dictfilter,
    fxrange,
    fxrangemax,
    lazy,
    maybe_list,
    memoize,
    reprcall,
    retry_over_time,
)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.naps = []
        monkeypatch.setattr(functional, "time", lambda: self.now)
        monkeypatch.setattr(functional, "sleep", self.sleep)

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def failing(times, result="done"):
    attempts = []

    def fun():
        attempts.append(1)
        if len(attempts) <= times:
            raise OSError(len(attempts))
        return result

    fun.attempts = attempts
    return fun


def test_retry_waits_longer_each_time(clock):
    started = clock.now
    assert retry_over_time(failing(5), OSError, interval_max=5) == "done"
    assert clock.now - started == 2 + 4 + 5 + 5 + 5


def test_retry_gives_up_by_count(clock):
    fun = failing(99)
    with pytest.raises(OSError, match="4"):
        retry_over_time(fun, OSError, max_retries=3)
    assert len(fun.attempts) == 4


def test_retry_does_not_sleep_beyond_its_deadline(clock):
    started = clock.now
    with pytest.raises(OSError, match="3"):
        retry_over_time(failing(99), OSError, timeout=3, interval_start=2, interval_step=8)
    assert clock.now - started == 3


def test_retry_asks_errback_for_the_interval(clock):
    seen = []

    def errback(exc, intervals, retries):
        seen.append((str(exc), retries))
        return 0.25

    retry_over_time(failing(2), OSError, errback=errback)
    assert seen == [("1", 0), ("2", 1)]
    assert clock.naps == [0.25, 0.25]


def test_retry_calls_back_while_it_waits(clock):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retry_over_time(failing(99), OSError, interval_start=30, callback=stop)
    assert sum(clock.naps) == 2


def test_other_errors_are_not_retried(clock):
    with pytest.raises(OSError):
        retry_over_time(failing(1), KeyError)
    assert clock.naps == []


def test_lru_cache():
    cache = LRUCache(limit=2)
    cache.update(a="1", b="2")
    assert cache["a"] == "1"  # now b is the one not used for longest
    cache["c"] = "3"
    assert list(cache) == ["a", "c"]
    assert cache.incr("a") == 2
    assert cache["a"] == "2"
    assert pickle.loads(pickle.dumps(cache)) == cache
    with pytest.raises(KeyError):
        cache["b"]


def test_memoize():
    calls = []

    @memoize(maxsize=2)
    def double(x, *, by=2):
        calls.append(x)
        return x * by

    assert [double(1), double(1), double(1, by=3)] == [2, 2, 3]
    assert (double.hits, double.misses, calls) == (1, 2, [1, 1])
    double.clear()
    assert double(1) == 2
    assert len(calls) == 3


def test_lazy_is_evaluated_each_time():
    values = iter([1, 2])
    value = lazy(next, values)
    assert (value(), value()) == (1, 2)
    assert lazy(int, "3") == 3
    assert pickle.loads(pickle.dumps(lazy(int, "11", base=2)))() == 3


def test_channel_promise_is_evaluated_once():
    values = iter([1, 2])
    promised = ChannelPromise(lambda: next(values))
    assert (promised(), promised()) == (1, 1)
    assert repr(promised) == "1"


def test_ranges():
    assert list(fxrange(1, 3, 0.5)) == [1, 1.5, 2, 2.5, 3]
    assert list(islice(fxrange(1, 2, 1, repeatlast=True), 4)) == [1, 2, 2, 2]
    assert list(islice(fxrange(1, None, 2), 3)) == [1, 3, 5]
    assert list(fxrangemax(1, 3, 1, 8)) == [1, 2, 3]


def test_small_ones():
    assert dictfilter({"a": None, "b": 0}, c=1) == {"b": 0, "c": 1}
    assert [maybe_list(v) for v in (None, "s", {"a": 1}, (1,), 0)] == [
        None,
        ["s"],
        [{"a": 1}],
        (1,),
        [0],
    ]
    assert reprcall("f", (1, "x"), {"k": None}) == "f(1, 'x', k=None)"
