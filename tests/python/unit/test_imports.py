"""What importing the package, and connecting, does not import; and what stands in for it."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import subprocess
import sys
from types import ModuleType
from unittest.mock import patch

import pytest

import kombu_rs.common
import kombu_rs.connection
import kombu_rs.log
from kombu_rs._deferred import deferred
from kombu_rs.resource import Resource
from kombu_rs.utils.text import version_string_as_tuple
from kombu_rs.utils.url import urlparts

NAMES = "Connection, Consumer, Exchange, Producer, Queue"

# Each takes as long as several of ours, many bring others along.
COSTLY = {
    *("asyncio", "base64", "dataclasses", "datetime", "decimal", "importlib.metadata", "inspect"),
    *("json", "logging", "multiprocessing.util", "pickle", "selectors", "socket", "ssl"),
    *("subprocess", "traceback", "typing", "uuid"),
}
# Needed to read a URL.
URLS = {"enum", "ipaddress", "re", "urllib.parse"}
POOLS = {"queue"}


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def imported_by(program: str) -> set[str]:
    """The modules that a program imports and an interpreter alone does not have."""
    show = "import sys; before = set(sys.modules)\n{}\nprint(*set(sys.modules) - before)"
    return set(run(show.format(program)).split())


def test_the_public_names_import_nothing_costly():
    found = imported_by(f"from kombu_rs import {NAMES}")
    assert "kombu_rs.messaging" in found
    assert not found & (COSTLY | URLS | POOLS)


@pytest.mark.parametrize("url", ["memory://", "redis://localhost", "amqp://localhost"])
def test_a_transport_imports_nothing_costly(url):
    found = imported_by(f"from kombu_rs import Connection; Connection({url!r}).transport")
    assert "kombu_rs.transport.native" in found or "kombu_rs.transport.amqp" in found
    assert not found & COSTLY


def test_messages_of_json_need_no_json_of_the_standard_library():
    program = (
        "from kombu_rs import Connection\n"
        "with Connection('memory://') as connection:\n"
        "    queue = connection.SimpleQueue('q')\n"
        "    queue.put({'a': [1, 2.5, None, 'text']})\n"
        "    assert queue.get(timeout=1).payload == {'a': [1, 2.5, None, 'text']}\n"
    )
    # The search for packages that bring serializers of their own imports others of them.
    assert "json.decoder" not in imported_by(program) - imported_by("import importlib.metadata")


def test_deferred_gets_its_object_once_and_when_it_is_used():
    got = []

    def get(name):
        got.append(name)
        return logging.getLogger(name)

    logger = deferred(get, "kombu_rs.tests.deferred")
    assert got == []
    assert logger.name == "kombu_rs.tests.deferred"
    logger.setLevel(35)
    assert logging.getLogger("kombu_rs.tests.deferred").level == 35
    assert got == ["kombu_rs.tests.deferred"]


def test_deferred_looks_like_its_object():
    logger = deferred(logging.getLogger, "kombu_rs.tests.deferred")
    real = logging.getLogger("kombu_rs.tests.deferred")
    assert isinstance(logger, logging.Logger)
    assert repr(logger) == repr(real)
    assert dir(logger) == dir(real)
    assert pickle.loads(pickle.dumps(logger)) is real


def test_modules_can_still_be_replaced_where_they_are_used():
    assert isinstance(kombu_rs.connection.socket, ModuleType)
    with patch("kombu_rs.connection.socket.getdefaulttimeout", return_value=7):
        assert socket.getdefaulttimeout() == 7
    assert socket.getdefaulttimeout() is None
    with patch("kombu_rs.log.logging") as replaced:
        kombu_rs.log.get_logger("kombu_rs.tests.replaced")
    replaced.getLogger.assert_called_once_with("kombu_rs.tests.replaced")


def test_levels_are_those_of_logging():
    for name in ("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET"):
        level = getattr(logging, name)
        assert kombu_rs.log.LOG_LEVELS[name] == level
        assert kombu_rs.log.LOG_LEVELS[level] == logging.getLevelName(level)


def test_named_tuples_are_ordinary_ones():
    version = version_string_as_tuple("5.7.0rc1")
    assert version == (5, 7, 0, "rc1", "")
    assert version._fields == ("major", "minor", "micro", "releaselevel", "serial")
    assert pickle.loads(pickle.dumps(version)) == version
    assert type(version).__module__ == "kombu_rs.utils.text"
    assert "unquoted" in urlparts.__doc__


def test_generic_classes_take_a_type():
    class Numbers(Resource[int]):
        def setup(self):
            """Nothing to begin with."""

    assert issubclass(Numbers, Resource)


def test_what_is_both_date_and_time_stays_so_beside_other_dates():
    program = (
        "import datetime, json\n"
        "from kombu_rs.utils.json import dumps, register_type\n"
        "register_type(datetime.date, 'day', str)\n"
        "class Moment(datetime.datetime): pass\n"
        "print(json.dumps([json.loads(dumps(each))['__type__'] for each in"
        " (Moment(2026, 1, 31), datetime.date(2026, 1, 31))]))\n"
    )
    assert json.loads(run(program)) == ["datetime", "day"]


def test_late_types_are_registered_for_all_threads():
    """Who is not the first to write such a value waits for the first, a forked child as well."""
    run(
        """if True:
        import os, sys, threading
        sys.setswitchinterval(1e-5)
        from kombu_rs.utils.json import dumps
        errors, start = [], threading.Barrier(4)
        def write():
            import uuid
            start.wait()
            try:
                dumps(uuid.UUID(int=1))
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        """
    )


def test_a_fork_waits_for_what_is_imported_late():
    run(
        """if True:
        import faulthandler, os, threading, importlib.abc, sys
        from kombu_rs.utils import json
        inside, go_on = threading.Event(), threading.Event()
        class Slow(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "uuid":
                    inside.set()
                    go_on.wait(20)
        sys.meta_path.insert(0, Slow())
        thread = threading.Thread(target=json._register_costly_types)
        thread.start()
        assert inside.wait(20)
        threading.Timer(0.2, go_on.set).start()
        pid = os.fork()
        if not pid:
            faulthandler.dump_traceback_later(20, exit=True)
            import uuid
            json.dumps(uuid.UUID(int=1))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        thread.join()
        """
    )


def test_annotations_of_classes_can_be_evaluated():
    run(
        """if True:
        import typing
        from kombu_rs.entity import Exchange
        from kombu_rs.transport.virtual.base import Channel
        from kombu_rs.utils.url import urlparts
        assert typing.get_type_hints(urlparts)
        for cls in (Exchange, Channel):
            try:
                typing.get_type_hints(cls)
            except NameError:  # of a name for type checkers alone, as in Kombu
                pass
        """
    )


def test_a_logger_equals_the_one_of_its_name():
    assert kombu_rs.common.logger == logging.getLogger("kombu.common")
    assert hash(kombu_rs.common.logger) == hash(logging.getLogger("kombu.common"))


def test_pools_still_name_what_they_are_made_of():
    from kombu_rs.resource import Empty, LifoQueue

    assert (Empty.__module__, LifoQueue.__module__) == ("_queue", "queue")
