"""The serializer registry: names, content types, and who is trusted."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from kombu_rs import serialization
from kombu_rs.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from kombu_rs.serialization import (
    disable_insecure_serializers,
    dumps,
    enable_insecure_serializers,
    loads,
    prepare_accept_content,
    registry,
)

PICKLE = "application/x-python-serialize"


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    saved = [
        (name, getattr(registry, name))
        for name in (
            "_encoders",
            "_decoders",
            "name_to_type",
            "type_to_name",
            "_disabled_content_types",
        )
    ]
    saved = [(name, value, value.copy()) for name, value in saved]
    yield
    for _, value, copy in saved:
        value.clear()
        value.update(copy)
    registry._set_default_serializer("json")


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_round_trip(serializer):
    pytest.importorskip({"yaml": "yaml", "msgpack": "msgpack"}.get(serializer, "json"))
    data = {"text": "é", "numbers": [1, 2.5], "nothing": None}
    content_type, content_encoding, payload = dumps(data, serializer)
    assert loads(payload, content_type, content_encoding, accept={content_type}) == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x", ("application/data", "binary", b"x")),
        ("é", ("text/plain", "utf-8", "é".encode())),
        ({"a": 1}, ("application/json", "utf-8", '{"a": 1}')),
    ],
)
def test_without_a_serializer(data, expected):
    assert dumps(data) == expected


def test_unknown_serializer_names_those_that_are_there():
    with pytest.raises(SerializerNotInstalled, match=r"nope.*json"):
        dumps({}, "nope")
    with pytest.raises(SerializerNotInstalled, match=r"nope.*json"):
        prepare_accept_content(["nope"])
    with pytest.raises(SerializerNotInstalled):
        registry.unregister("nope")


def test_errors_are_wrapped():
    with pytest.raises(EncodeError, match="not JSON serializable") as info:
        dumps([object()], "json")
    assert isinstance(info.value.__cause__, TypeError)
    with pytest.raises(EncodeError):
        dumps("\ud800")
    with pytest.raises(DecodeError):
        loads(b"{", "application/json", "utf-8")
    with pytest.raises(DecodeError):
        loads(b"\xff", "text/plain", "utf-8")
    with pytest.raises(DecodeError):
        loads(b"x", "text/plain", "no-such-encoding")


def test_pickle_is_not_read_unless_asked_for():
    payload = pickle.dumps(1)
    with pytest.raises(ContentDisallowed, match=r"disabled.*pickle.*accepted.*application/json"):
        loads(payload, PICKLE, "binary")
    assert loads(payload, PICKLE, "binary", accept={PICKLE}) == 1
    assert loads(payload, PICKLE, "binary", force=True) == 1
    enable_insecure_serializers(["pickle"])
    assert loads(payload, PICKLE, "binary") == 1
    disable_insecure_serializers()
    with pytest.raises(ContentDisallowed):
        loads(payload, PICKLE, "binary")


def test_disallowed_content_names_what_is_accepted():
    with pytest.raises(ContentDisallowed, match=r"json \(application/json\).*yaml"):
        loads("{}", "application/json", "utf-8", accept=["application/x-yaml"])
    with pytest.raises(ContentDisallowed, match="accepted here: nothing"):
        loads("{}", "application/json", "utf-8", accept=[])
    # even when forced: `accept` is the consumer's own word
    with pytest.raises(ContentDisallowed):
        loads("{}", "application/json", "utf-8", accept=[], force=True)


def test_plain_data_is_always_accepted():
    assert loads(b"x", "application/data", "binary", accept=[]) == b"x"
    assert loads(b"x", None, None, accept=[]) == "x"


def test_nothing_is_decoded_from_nothing():
    assert loads(b"", "application/json", "utf-8") == b""
    assert loads(None, "application/json", "utf-8") is None


def test_disable_all_and_allow_some():
    disable_insecure_serializers(allowed=None)
    with pytest.raises(ContentDisallowed):
        loads("{}", "application/json", "utf-8")
    disable_insecure_serializers(allowed=["json", "yaml"])
    assert loads("{}", "application/json", "utf-8") == {}
    with pytest.raises(KeyError):
        enable_insecure_serializers(["nope"])


def test_enabling_what_is_not_installed():
    for names in (registry.name_to_type, registry.type_to_name):
        names.pop("msgpack", None)
    registry._encoders.pop("msgpack", None)
    enable_insecure_serializers(["msgpack", "pickle"])
    assert PICKLE not in registry._disabled_content_types


def test_own_serializer():
    serialization.register("rev", lambda s: s[::-1], lambda s: s[::-1], "application/x-rev")
    content_type, encoding, payload = dumps("abc", "rev")
    assert (content_type, encoding, payload) == ("application/x-rev", "utf-8", "cba")
    assert loads(payload, content_type, encoding) == "abc"
    assert prepare_accept_content(["rev", "text/x"]) == {"application/x-rev", "text/x"}
    serialization.unregister("rev")
    with pytest.raises(SerializerNotInstalled):
        dumps("abc", "rev")


@pytest.mark.parametrize(
    ("name", "content_type"), [("yaml", "application/x-yaml"), ("msgpack", "application/x-msgpack")]
)
def test_missing_library_is_named(monkeypatch, name, content_type):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SerializerNotInstalled, match="pip install"):
        dumps({}, name)
    with pytest.raises(SerializerNotInstalled, match="pip install"):
        loads(b"x", content_type, "binary", accept={content_type})


def run_with_plugin(tmp_path, name, args, code):
    """Run ``code`` where an installed package offers a serializer; return what it printed."""
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kombu.serializers]\n{name} = plug:args\n")
    (tmp_path / "plug.py").write_text(f"args = {args}\n")
    ran = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        check=False,
        env={"PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert not ran.stderr
    return ran.stdout.strip()


def test_entry_points_are_found_at_the_first_use(tmp_path):
    code = (
        "import sys\n"
        "from kombu_rs.serialization import dumps\n"
        'assert "importlib.metadata" not in sys.modules\n'
        'print(dumps("abc", "loud"))\n'
    )
    args = "(str.upper, str.lower, 'application/x-loud', 'utf-8')"
    assert run_with_plugin(tmp_path, "loud", args, code) == (
        "('application/x-loud', 'utf-8', 'ABC')"
    )


def test_entry_point_may_replace_json_on_the_native_path(tmp_path):
    code = (
        "from kombu_rs import Connection\n"
        'with Connection("memory://") as c:\n'
        '    c.Producer(serializer="json").publish({"a": 1}, routing_key="q", retry=False,\n'
        '        declare=[__import__("kombu_rs").Queue("q")])\n'
        '    print(c.default_channel.basic_get("q").body)\n'
    )
    args = "(lambda o: '\"other\"', lambda s: 'other', 'application/json', 'utf-8')"
    assert "other" in run_with_plugin(tmp_path, "json", args, code)
