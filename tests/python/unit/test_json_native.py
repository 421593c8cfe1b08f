"""The native JSON functions do what the standard library's do."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter, OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_rs._native import json_dumps, json_loads

text = st.text(st.characters())  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
keys = text | st.integers() | st.floats() | st.booleans() | st.none()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, and takes NaN for NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (a != a and b != b))
    return a == b


def outcome(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    try:
        return ("returned", function(*args, **kwargs))
    except Exception as error:
        return (type(error), str(error))


class Whole(int):
    def __repr__(self) -> str:
        return "whole"


class Part(float):
    def __repr__(self) -> str:
        return "part"


class Words(str):
    def __str__(self) -> str:
        return "words"


class Level(enum.IntEnum):
    LOW = 1


class Colour(str, enum.Enum):
    RED = "red"


Pair = namedtuple("Pair", "a b")


class TestDumps:
    @given(values)
    def test_as_the_standard_library(self, value: Any) -> None:
        assert json_dumps(value) == json.dumps(value)

    @given(st.floats() | st.integers(-(2**70), 2**70).map(float))
    def test_floats(self, value: float) -> None:
        assert json_dumps(value) == json.dumps(value)

    @pytest.mark.parametrize(
        "value",
        [
            Whole(3),
            Part(1.5),
            Words("x"),
            Level.LOW,
            Colour.RED,
            Pair(1, [2]),
            OrderedDict(b=1, a=2),
            Counter("aab"),
            {Level.LOW: 1, Colour.RED: 2, Whole(3): 4, Part(2.0): 5, Words("w"): 6},
            OrderedDict(),
            {True: 1, None: 2, 1.5: 3, float("nan"): 4, 10**30: 5},
            10**400,
            -(2**63),
            2**63,
            [[[]]],
            {"a": {}},
            (),
            "\ud800",
            "\udc00x\U0001f600",
            "é\x7f\x80\xff",
            [1] * 100,
        ],
    )
    def test_subclasses_and_corners(self, value: Any) -> None:
        assert json_dumps(value) == json.dumps(value)

    @pytest.mark.parametrize(
        "value",
        [
            {(1,): 2},
            {b"a": 1},
            [object],
            {"a": {1, 2}},
            b"x",
            bytearray(b"x"),
            range(3),
            1j,
            [Pair(1, object())],
            {object(): 1},
        ],
    )
    def test_errors(self, value: Any) -> None:
        kind, message = outcome(json_dumps, value)
        assert (kind, message) == outcome(json.dumps, value)
        assert kind is TypeError

    def test_an_int_with_too_many_digits(self) -> None:
        value = 10**5000
        assert outcome(json_dumps, [value]) == outcome(json.dumps, [value])

    def test_circular_references(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        knot: dict[str, Any] = {}
        knot["self"] = [knot]
        for value in (loop, knot):
            with pytest.raises(ValueError, match="Circular reference detected"):
                json_dumps(value)
        with pytest.raises(ValueError, match="Circular reference detected"):
            json_dumps(object(), lambda o: o)

    def test_deep_nesting(self) -> None:
        value: list[Any] = []
        for _ in range(500):
            value = [value]
        assert json_dumps(value) == json.dumps(value)
        for _ in range(200_000):
            value = [value]
        with pytest.raises(RecursionError):
            json_dumps(value)
        while value:  # or its destructor needs the C stack
            value = value.pop()

    def test_default_takes_the_place_of_what_json_has_not(self) -> None:
        seen = []

        def default(value: Any) -> Any:
            seen.append(value)
            return {"set": sorted(value)} if isinstance(value, set) else [complex(value).real]

        value = {"a": {3, 1}, "b": [2j, {"c": {2}}], "d": Level.LOW}
        assert json_dumps(value, default) == json.dumps(value, default=default)
        assert seen == [{3, 1}, 2j, {2}] * 2
        assert json_dumps(value, default=default) == json.dumps(value, default=default)

    def test_what_default_raises_goes_out(self) -> None:
        def default(value: Any) -> Any:
            raise LookupError(value)

        with pytest.raises(LookupError):
            json_dumps([object()], default)

    def test_default_may_change_what_is_written(self) -> None:
        items: list[Any] = [object(), 1, 2]
        assert json_dumps(items, lambda o: items.clear()) == "[null]"
        many: dict[Any, Any] = {i: object() for i in range(50)}

        def grow(value: Any) -> Any:
            many[len(many)] = 0

        assert json.loads(json_dumps(many, grow))["0"] is None

        class Odd(dict[str, Any]):
            def items(self) -> Any:
                return [(1, 2, 3)]

        assert outcome(json_dumps, Odd(a=1)) == outcome(json.dumps, Odd(a=1))


def revive(value: dict[str, Any]) -> Any:
    if value.keys() == {"__type__", "__value__"}:
        return ("revived", value["__type__"], value["__value__"])
    return value


class TestLoads:
    @given(values)
    def test_what_was_written(self, value: Any) -> None:
        written = json.dumps(value)
        assert same(json_loads(written), json.loads(written))
        assert same(json_loads(written.encode()), json.loads(written))

    @given(values)
    def test_text_that_is_not_ascii(self, value: Any) -> None:
        written = json.dumps(value, ensure_ascii=False, indent=1)
        assert same(json_loads(written), json.loads(written))

    @given(st.text('[]{}:,"\\/ntfu0123456789-+.eEaNIy \t\n\ufeff\ud800é', max_size=12))
    def test_all_that_is_read_and_all_that_is_refused(self, written: str) -> None:
        ours, theirs = outcome(json_loads, written), outcome(json.loads, written)
        assert ours[0] == theirs[0]
        assert same(ours[1], theirs[1])

    @given(st.binary(max_size=12))
    def test_bytes_that_may_be_anything(self, written: bytes) -> None:
        def decoded(data: bytes) -> Any:
            return json.loads(data.decode("utf-8"))

        ours, theirs = outcome(json_loads, written), outcome(decoded, written)
        assert ours[0] == theirs[0]
        assert same(ours[1], theirs[1])

    @pytest.mark.parametrize(
        "written",
        [
            "-0",
            "-0.0",
            "1e400",
            "-1e400",
            "1E5",
            "123456789012345678901234567890",
            "NaN",
            "-Infinity",
            "Infinity",
            "1.7976931348623157e308",
            "0.1",
            "2.5e-324",
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '{"a": 1, "b": 2, "a": 3}',
            "[" * 150 + "]" * 150,
            "[" * 400 + "]" * 400,
            " [ ] ",
            "",
            " ",
            "[1,]",
            '{"a":}',
            "01",
            '"\t"',
            "\ufeff{}",
            "nan",
            "inf",
            "-NaN",
            "[1] 2",
            "'a'",
            "9" * 5000,
            "-",
            "1.",
            ".5",
            '"\\x"',
            "\x00",
            "true ",
            "tru",
            "[" * 100_000,
        ],
    )
    def test_corners(self, written: str) -> None:
        ours, theirs = outcome(json_loads, written), outcome(json.loads, written)
        assert ours[0] == theirs[0]
        assert same(ours[1], theirs[1])
        as_bytes = written.encode("utf-8", "surrogatepass")
        ours = outcome(json_loads, as_bytes)
        assert ours[0] == theirs[0]
        assert same(ours[1], theirs[1])

    def test_kinds_of_buffers(self) -> None:
        for kind in (bytes, bytearray, memoryview):
            assert json_loads(kind(b'{"a": "\xc3\xa9"}')) == {"a": "é"}
        assert json_loads(memoryview(b"[x1x]x")[::2]) == [1]
        for bad in (None, 1, ["[]"]):
            assert outcome(json_loads, bad) == outcome(json.loads, bad)
            assert outcome(json_loads, bad)[0] is TypeError
        with pytest.raises(UnicodeDecodeError):
            json_loads(b'"\xff"')

    @pytest.mark.parametrize(
        "written",
        [
            '{"__type__": "x", "__value__": {"__value__": [1], "__type__": "y"}}',
            '[1, {"a": {"__type__": "x", "__value__": null}, "b": 2}]',
            r'{"\u005f_type__": "x", "__value__": 1}',
            r'{"__\u0074ype__": "x", "__value__": 1}',
            r'{"__\u0074\u0079p\u0065__": "x", "__value__": 1}',
            '{"__type__": "x"}',
            '{"__type__": "x", "__value__": 1, "more": 2}',
            '"__type__"',
        ],
    )
    def test_objects_with_a_marker(self, written: str) -> None:
        assert json_loads(written, revive) == json.loads(written, object_hook=revive)
        assert json_loads(written.encode(), revive) == json.loads(written, object_hook=revive)
        assert json_loads(written) == json.loads(written)

    def test_the_hook_is_for_these_alone(self) -> None:
        calls: list[Any] = []
        json_loads('[{"a": {"__type__": 1, "__value__": 2}}, {}]', calls.append)
        assert calls == [{"__type__": 1, "__value__": 2}]

    def test_what_the_hook_raises_goes_out(self) -> None:
        def hook(value: Any) -> Any:
            raise LookupError(value)

        with pytest.raises(LookupError):
            json_loads('{"__type__": 1, "__value__": 2}', hook)
