"""JSON with Kombu's extended types."""

from __future__ import annotations

import json as stdlib_json
import math
import uuid
from collections import namedtuple
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_rs.utils import json
from kombu_rs.utils.json import JSONEncoder, dumps, loads, register_type


@pytest.fixture(autouse=True)
def _default_types():
    json._register_costly_types()
    encoders, decoders = dict(json._encoders), dict(json._decoders)
    yield
    json._encoders.clear()
    json._encoders.update(encoders)
    json._decoders.clear()
    json._decoders.update(decoders)


zones = st.none() | st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
extended = (
    st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
# "__type__" and "__value__" together are the envelope itself and cannot be data.
keys = st.text().filter(lambda key: key != "__type__")
trees = st.recursive(
    plain | extended,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(trees)
def test_what_was_written_is_read_back(data):
    assert loads(dumps(data)) == data


@settings(deadline=None)
@given(trees)
def test_text_is_ascii_and_plain_json(data):
    text = dumps(data)
    assert text.isascii()
    stdlib_json.loads(text)


@settings(deadline=None)
@given(st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner)))
def test_plain_data_is_written_as_the_standard_library_does(data):
    assert dumps(data) == stdlib_json.dumps(data)


@settings(deadline=None)
@given(trees)
def test_every_kind_of_buffer_can_be_read(data):
    raw = dumps(data).encode()
    for buffer in (raw, bytearray(raw), memoryview(raw)):
        assert loads(buffer) == data


@settings(deadline=None)
@given(st.text())
def test_rubbish_is_a_value_error(text):
    with suppress(ValueError):
        loads(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            datetime(2026, 1, 31, 12, 0),
            '{"__type__": "datetime", "__value__": "2026-01-31T12:00:00"}',
        ),
        (date(2026, 1, 31), '{"__type__": "date", "__value__": "2026-01-31"}'),
        (time(12, 30, 0, 1), '{"__type__": "time", "__value__": "12:30:00.000001"}'),
        (Decimal("1.10"), '{"__type__": "decimal", "__value__": "1.10"}'),
        (
            uuid.UUID(int=5),
            '{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000005"}}',
        ),
        (b"plain", '{"__type__": "bytes", "__value__": "plain"}'),
        (b"\xff\xfe", '{"__type__": "base64", "__value__": "//4="}'),
    ],
)
def test_wire_format(value, text):
    assert dumps(value) == text
    assert loads(text) == value
    assert type(loads(text)) is type(value)


def test_forms_of_other_versions_are_read():
    assert loads('{"__type__": "date", "__value__": "2026-01-31T00:00:00"}') == date(2026, 1, 31)
    assert loads('{"__type__": "datetime", "__value__": "2026-01-31T00:00:00Z"}') == datetime(
        2026, 1, 31, tzinfo=timezone.utc
    )
    with_version = (
        '{"__type__": "uuid", "__value__": '
        '{"hex": "00000000000040008000000000000005", "version": 4}}'
    )
    assert loads(with_version).version == 4


def test_numbers_that_json_does_not_have():
    assert dumps([math.inf, -math.inf]) == "[Infinity, -Infinity]"
    assert math.isnan(loads(dumps(math.nan)))
    assert dumps(Decimal("NaN")) == '{"__type__": "decimal", "__value__": "NaN"}'
    assert loads(dumps(2**80)) == 2**80


def test_lone_surrogates_survive():
    assert loads(dumps("\ud800")) == "\ud800"


def test_named_tuples_are_lists():
    assert dumps(namedtuple("Point", "x y")(1, 2)) == "[1, 2]"


def test_json_method_comes_first():
    class Stamp(datetime):
        def __json__(self):
            return {"year": self.year}

    assert loads(dumps([Stamp(2026, 1, 1)])) == [{"year": 2026}]


def test_registered_type_and_its_subclasses():
    class Point:
        def __init__(self, x):
            self.x = x

    class Pixel(Point):
        pass

    with pytest.raises(TypeError, match="Point is not JSON serializable"):
        dumps(Point(1))
    register_type(Point, "point", lambda o: [o.x], lambda v: Point(*v))
    assert loads(dumps({"a": Pixel(3)}))["a"].x == 3
    register_type(Pixel, "pixel", lambda o: "p")
    assert loads(dumps([Pixel(3)])) == ["p"]


def test_registering_again_replaces_a_default():
    register_type(uuid.UUID, "uuid", lambda o: "id", lambda v: v)
    assert loads(dumps(uuid.uuid4())) == "id"


def test_no_marker_means_no_envelope():
    register_type(date, None, lambda o: o.isoformat())
    assert dumps(date(2026, 1, 31)) == '"2026-01-31"'


@pytest.mark.parametrize("value", [object(), {1}, 1j, bytearray(b"x"), {(1,): 2}, {b"k": 1}])
def test_what_json_does_not_have(value):
    with pytest.raises(TypeError):
        dumps(value)


def test_data_that_contains_itself():
    loop = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        dumps(loop)


def test_unknown_marker_names_those_that_are_known():
    with pytest.raises(ValueError, match=r"'point'.*datetime"):
        loads('{"__type__": "point", "__value__": 1}')
    with pytest.raises(ValueError, match="Unsupported type"):
        loads('{"__type__": [1], "__value__": 1}')


def test_near_envelopes_are_data():
    for data in (
        {"__type__": "date"},
        {"__value__": 1},
        {"__type__": "date", "__value__": "2026-01-31", "more": 1},
    ):
        assert loads(dumps(data)) == data


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '"\\x"', '{"a" 1}'])
def test_what_is_not_json(text):
    with pytest.raises(ValueError, match=r"char|line|column|JSON"):
        loads(text)


def test_bad_utf8():
    with pytest.raises(UnicodeDecodeError):
        loads(b'"\xff"')


def test_options_reach_the_standard_library():
    data = {"b": 1, "a": "é"}
    assert dumps(data, sort_keys=True) == '{"a": "\\u00e9", "b": 1}'
    assert dumps(data, default_kwargs={"ensure_ascii": False}) == '{"b": 1, "a": "é"}'
    assert loads('{"__type__": "date"}', object_hook=len) == 1

    class Sets(JSONEncoder):
        def default(self, o):
            return sorted(o) if isinstance(o, set) else super().default(o)

    assert dumps([{2, 1}, b"x"], cls=Sets) == '[[1, 2], {"__type__": "bytes", "__value__": "x"}]'
