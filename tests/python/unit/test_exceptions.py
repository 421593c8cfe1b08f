"""The hierarchy of errors."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from kombu_rs import exceptions
from kombu_rs.exceptions import ERROR_MAP, AMQPError, ChannelError, HttpError, NotFound, reraise


@pytest.mark.parametrize("name", exceptions.__all__)
def test_public_names_exist(name):
    assert getattr(exceptions, name)


@pytest.mark.parametrize(("code", "cls"), ERROR_MAP.items())
def test_reply_codes(code, cls):
    error = exceptions.error_for_code(code, "why", (50, 10), ChannelError)
    assert type(error) is cls
    assert error.reply_code == code
    assert issubclass(cls, (exceptions.ConnectionError, ChannelError))


def test_unknown_code_takes_the_default():
    error = exceptions.error_for_code(999, "why", None, ChannelError)
    assert (type(error), error.code, error.reply_code) == (ChannelError, 0, 999)


def test_amqp_errors_say_what_happened():
    error = NotFound("no queue 'x'", (50, 10), "Queue.declare", 404)
    assert str(error) == "Queue.declare: (404) no queue 'x'"
    assert str(AMQPError()) == "<AMQPError: unknown error>"


def test_errors_can_be_copied_and_pickled():
    for error in (
        NotFound("x", (1, 2), "m"),
        HttpError(404, "no"),
        exceptions.OperationalError("x"),
    ):
        for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert type(same) is type(error)
            assert same.args == error.args
            assert str(same) == str(error)


def test_reraise_keeps_the_traceback():
    try:
        raise KeyError("x")
    except KeyError as exc:
        tb, error = exc.__traceback__, exc
    with pytest.raises(KeyError) as info:
        reraise(KeyError, error, tb)
    assert info.value is error


@pytest.mark.parametrize("first", ["amqp.exceptions", "kombu_rs.exceptions"])
def test_amqp_handlers_catch_ours(tmp_path, first):
    """With a py-amqp of the same shape: our tests must not depend on the real one."""
    package = tmp_path / "amqp"
    package.mkdir()
    (package / "__init__.py").write_text("")
    lines = ['class AMQPError(Exception):\n    def __init__(self, *a): raise SystemExit("theirs")']
    for cls in exceptions._AMQP_CLASSES[1:]:
        ours = next(base for base in cls.__mro__[1:] if base in exceptions._AMQP_CLASSES)
        lines.append(f"class {cls.__name__}({ours.__name__}): pass")
    (package / "exceptions.py").write_text("\n".join(lines))
    code = f"""
import {first}
import kombu_rs.exceptions as ours
import amqp.exceptions as theirs
for cls in ours._AMQP_CLASSES:
    try:
        raise cls("text", (1, 2), "m", 7)
    except getattr(theirs, cls.__name__) as exc:
        assert isinstance(exc, theirs.AMQPError) and exc.reply_code == 7, exc
caught = ours.with_amqp((OSError, ours.ChannelError))
assert caught == (OSError, ours.ChannelError, theirs.ChannelError), caught
assert ours.with_amqp((OSError,)) == (OSError,)
assert issubclass(ours.InconsistencyError, theirs.ConnectionError)
assert not issubclass(ours.ConnectionError, theirs.ChannelError)
print("caught")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        check=False,
        env={"PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert ran.stdout == "caught\n", ran.stderr
