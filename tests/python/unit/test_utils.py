"""The small modules."""

from __future__ import annotations

import gc
import heapq
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid as stdlib_uuid

import pytest

from kombu_rs import log, utils
from kombu_rs.abstract import MaybeChannelBound, Object
from kombu_rs.clocks import LamportClock, timetuple
from kombu_rs.exceptions import NotBoundError
from kombu_rs.matcher import MatcherNotInstalled, match
from kombu_rs.utils import compat, limits
from kombu_rs.utils.collections import EqualityDict, HashedSeq
from kombu_rs.utils.div import emergency_dump_state
from kombu_rs.utils.encoding import bytes_to_str, safe_repr, safe_str
from kombu_rs.utils.functional import ChannelPromise
from kombu_rs.utils.imports import symbol_by_name
from kombu_rs.utils.objects import cached_property
from kombu_rs.utils.scheduling import FairCycle, cycle_by_name
from kombu_rs.utils.text import fmatch_best, version_string_as_tuple
from kombu_rs.utils.uuid import uuid


@pytest.mark.parametrize("name", utils.__all__)
def test_names_of_the_package(name):
    assert callable(getattr(utils, name))
    assert name in dir(utils)


def test_package_is_light():
    """What takes long to import is imported when it is needed."""
    heavy = {
        "yaml",
        "msgpack",
        "lzma",
        "bz2",
        "decimal",
        "uuid",
        "zoneinfo",
        "ssl",
        "importlib.metadata",
        "multiprocessing",
        "asyncio",
        "difflib",
        "amqp",
        "vine",
        "tempfile",
        "concurrent",
    }
    code = (
        "import sys; before = set(sys.modules)\n"
        "from kombu_rs import (abstract, clocks, compression, exceptions, log, matcher,\n"
        "                      resource, serialization)\n"
        "from kombu_rs import asynchronous, utils\n"
        "from kombu_rs.utils import json, url, limits, scheduling, text, div, eventio\n"
        f"print(sorted({heavy!r} & (set(sys.modules) - before)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert ran.stdout.strip() == "[]"


def test_uuid_is_version_4():
    ids = {uuid() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(str(stdlib_uuid.UUID(each)) == each for each in ids)
    assert {stdlib_uuid.UUID(each).version for each in ids} == {4}
    assert {stdlib_uuid.UUID(each).variant for each in ids} == {stdlib_uuid.RFC_4122}
    assert uuid(lambda: "mine") == "mine"


class Broken:
    def __repr__(self):
        raise KeyError("no")


def test_safe_text():
    assert safe_str(b"\xff") == "�"
    assert safe_str(3) == "3"
    assert bytes_to_str(b"x") == "x"
    assert safe_repr(Broken()).startswith("<Unrepresentable")


def test_cached_property():
    class Thing:
        computed = deleted = 0

        @cached_property
        def value(self):
            self.computed += 1
            return self.computed

        @value.setter
        def value(self, given):
            return given * 2

        @value.deleter
        def value(self, old):
            self.deleted = old

    thing = Thing()
    assert (thing.value, thing.value) == (1, 1)
    thing.value = 4
    assert thing.value == 8
    del thing.value
    assert thing.deleted == 8
    del thing.value  # nothing there: no call
    assert thing.value == 2


def test_cached_property_is_computed_once_by_many_threads():
    started = threading.Barrier(4)

    class Thing:
        calls = 0

        @cached_property
        def value(self):
            self.calls += 1
            return object()

    thing, seen = Thing(), []

    def get():
        started.wait(10)
        seen.append(thing.value)

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert thing.calls == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_of_a_fork_does_not_wait_for_the_parents_threads():
    computing, done = threading.Event(), threading.Event()

    class Thing:
        def __init__(self, slow):
            self.slow = slow

        @cached_property
        def value(self):
            if self.slow:
                computing.set()
                done.wait(10)
            return 1

    thread = threading.Thread(target=lambda: Thing(slow=True).value)
    thread.start()
    assert computing.wait(10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(10)
            status = Thing(slow=False).value - 1
        finally:
            os._exit(status)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_token_bucket(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    bucket = limits.TokenBucket(fill_rate=2, capacity=2)
    assert [bucket.can_consume() for _ in range(3)] == [True, True, False]
    assert bucket.expected_time() == 0.5
    now[0] += 0.5
    assert bucket.can_consume()
    now[0] += 100
    assert not bucket.can_consume(3)
    bucket.add("x")
    assert bucket.pop() == "x"


def test_fair_cycle():
    class Nothing(Exception):
        pass

    def take(resource, callback):
        if resource == "empty":
            raise Nothing(resource)
        return resource

    cycle = FairCycle(take, ["a", "empty", "b"], Nothing)
    assert [cycle.get(None) for _ in range(4)] == ["a", "b", "a", "b"]
    with pytest.raises(Nothing):
        FairCycle(take, ["empty", "empty"], Nothing).get(None)
    with pytest.raises(Nothing):
        FairCycle(take, [], Nothing).get(None)
    cycle.resources = ["c", "d"]
    assert cycle.get(None) == "c"
    cycle.fun = lambda resource, callback: {"c": 1}[resource]
    cycle.predicate = KeyError
    assert [cycle.get(None), cycle.get(None)] == [1, 1]


def test_fair_cycle_has_hooks():
    class Last(FairCycle):
        def _next(self):
            return self.resources[-1]

    assert Last(lambda resource, callback: resource, [1, 2]).get(None) == 2


@pytest.mark.parametrize(
    ("name", "order"),
    [("round_robin", ["b", "a", "c"]), ("priority", ["c", "b", "a"]), ("sorted", ["a", "b", "c"])],
)
def test_cycles(name, order):
    cycle = cycle_by_name(name)(["c", "b", "a"])
    cycle.rotate("c")
    cycle.rotate("not there")
    assert cycle.consume(3) == order
    cycle.update(["z"])
    assert cycle.consume(3) == ["z"]


def test_equality_dict():
    class Key:
        def __init__(self, *parts):
            self.parts = parts

        def __eqhash__(self):
            return HashedSeq(*self.parts)

    table = EqualityDict()
    table[Key(1, 2)] = "x"
    assert table[Key(1, 2)] == "x"
    with pytest.raises(KeyError):
        table[Key(3)]
    del table[Key(1, 2)]
    assert not table


def test_symbol_by_name():
    assert symbol_by_name("os.path.join") is os.path.join
    assert symbol_by_name("cwd", {"cwd": "os:getcwd"}) is os.getcwd
    assert symbol_by_name(":getcwd", package="os") is os.getcwd
    assert symbol_by_name("os") is os
    assert symbol_by_name("no.such:thing", default=1) == 1
    with pytest.raises(ImportError):
        symbol_by_name("no.such:thing")
    with pytest.raises(AttributeError):
        symbol_by_name("os:nothing")


def test_text():
    assert fmatch_best("redsi", ["redis", "memory"]) == "redis"
    assert fmatch_best("zzz", ["redis"]) is None
    assert version_string_as_tuple("5.7.0rc1") == (5, 7, 0, "rc1", "")
    assert version_string_as_tuple("1.2.3-beta1") == (1, 2, 3, "", "beta1")
    assert version_string_as_tuple("3.3.1.a3.40c32") == (3, 3, 1, "a3", "40c32")
    with pytest.raises(ValueError, match="invalid literal"):
        version_string_as_tuple("x")


@pytest.mark.parametrize(
    ("matcher", "pattern", "result"),
    [(None, "w*@h", True), ("glob", "x*", False), ("pcre", r"w\d@", True), ("pcre", "x", False)],
)
def test_matchers(matcher, pattern, result):
    assert bool(match("w1@h", pattern, matcher)) is result


def test_unknown_matcher():
    with pytest.raises(MatcherNotInstalled, match=r"nope.*glob"):
        match("x", "y", "nope")


def test_clock_orders_events():
    a, b = LamportClock(), LamportClock(10)
    assert a.adjust(b.forward()) == 12
    assert a.sort_heap([(1, "b"), (1, "a"), (2, "0")]) == (1, "a")
    heap = []
    for each in (timetuple(2, 5.0, "b", {}), timetuple(2, 9.0, "a", {}), timetuple(1, 9.0, "z")):
        heapq.heappush(heap, each)
    assert [heapq.heappop(heap).id for _ in range(3)] == ["z", "a", "b"]
    assert timetuple(0, 1.0, "z") < timetuple(5, 2.0, "a")  # no clock: by time
    assert pickle.loads(pickle.dumps(timetuple(1, 2.0, "i", "o"))) == (1, 2.0, "i", "o")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_hooks_run_in_every_child_while_their_object_lives():
    class Owner:
        pass

    r, w = os.pipe()
    owner, gone = Owner(), Owner()
    compat.register_after_fork(owner, lambda _: os.write(w, b"x"))
    compat.register_after_fork(gone, lambda _: os.write(w, b"y"))
    del gone
    gc.collect()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(w)
    assert os.read(r, 10) == b"x"
    os.close(r)
    del owner


def test_log_levels_and_names():
    assert log.get_loglevel("WARNING") == log.get_loglevel(logging.WARNING) == 30
    assert list(log.safeify_format("%d%% of %-5r: %s", [3, "x", Broken()]))[:2] == [3, "'x'"]
    logger = log.get_logger("kombu.test.names")
    assert logger.name == "kombu.test.names"
    assert logger.handlers


class Entity(MaybeChannelBound):
    attrs = (("name", str), ("size", int), ("inner", None))
    size = 7


def test_objects_are_described_by_their_attributes():
    entity = Entity(name=5, inner=Entity(name="in"))
    assert entity.as_dict(recurse=True) == {
        "name": "5",
        "size": 7,
        "inner": {"name": "in", "size": 7, "inner": None},
    }
    assert pickle.loads(pickle.dumps(entity)).name == "5"
    assert issubclass(MaybeChannelBound, Object)


def test_unbound_entity_says_so():
    entity = Entity(name="x")
    assert repr(entity) == "<unbound Entity>"
    with pytest.raises(NotBoundError, match="Entity"):
        entity.channel  # noqa: B018
    entity._channel = ChannelPromise(lambda: "opened")
    entity._is_bound = True
    assert entity.channel == "opened"


@pytest.mark.parametrize("state", [{"a": 1}, {"a": lambda: 1}])
def test_emergency_dump(state, tmp_path):
    said = io.StringIO()
    path = emergency_dump_state(state, stderr=said)
    try:
        assert path in said.getvalue()
        with open(path, "rb") as file:
            content = file.read()
        assert b"a" in content
        assert ("Falling back" in said.getvalue()) is callable(state["a"])
    finally:
        os.unlink(path)


def test_importlib_metadata_is_imported_when_somebody_wants_it():
    from importlib import metadata

    from kombu_rs.utils import compat

    assert compat.importlib_metadata is metadata
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = compat.no_such_name
