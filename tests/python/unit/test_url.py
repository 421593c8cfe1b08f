"""Broker URLs: parsing, and never showing a password."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_rs.utils.url import as_url, maybe_sanitize_url, parse_url, sanitize_url, url_to_parts


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://:pw@h:1/2?a=b&c=d", ("redis", "h", 1, None, "pw", "2", {"a": "b", "c": "d"})),
        ("sqla+sqlite:///foo.db", ("sqla+sqlite", None, None, None, None, "foo.db", {})),
        ("sqla+sqlite:////abs/foo.db", ("sqla+sqlite", None, None, None, None, "/abs/foo.db", {})),
        ("amqp://", ("amqp", None, None, None, None, None, {})),
        ("amqp://u%40:p%2f@h//", ("amqp", "h", None, "u@", "p/", "/", {})),
        ("amqp://h/%2f", ("amqp", "h", None, None, None, "/", {})),
        ("amqp://[::1]:5672/v", ("amqp", "::1", 5672, None, None, "v", {})),
        ("sqs://AKI%2F:sec%2Bret@", ("sqs", None, None, "AKI/", "sec+ret", None, {})),
        ("A+B://Host", ("a+b", "host", None, None, None, None, {})),
        ("amqp://u:p@h/v#fragment", ("amqp", "h", None, "u", "p", "v", {})),
    ],
)
def test_parts(url, parts):
    assert url_to_parts(url) == parts


def test_parse_url_gives_connection_arguments():
    assert parse_url("rediss://u:p@h:1/2?ssl_cert_reqs=none&ssl_ca_certs=/ca&heartbeat=5") == {
        "transport": "rediss",
        "hostname": "h",
        "port": 1,
        "userid": "u",
        "password": "p",
        "virtual_host": "2",
        "heartbeat": "5",
        "ssl": {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_ca_certs": "/ca"},
    }
    # a unix socket's path and its virtual host
    assert parse_url("redis+socket:///a.sock?virtual_host=3")["virtual_host"] == "3"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs=.maybe.*CERT_REQUIRED"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname=.maybe.*true or false"),
    ],
)
def test_bad_parameters_are_named(url, why):
    with pytest.raises((KeyError, ValueError), match=why):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@h:port/",
        "redis://:sec#ret@h/1",
        "amqp://u:secret@h:99999/",
        "amqp://u:se:cret@[::1/",
        "amqp://u:s/ecret@h",
        "amqp://u:se?cret@h",
    ],
)
def test_bad_url_is_explained_without_the_password(url):
    with pytest.raises(ValueError, match="port must be a number") as info:
        url_to_parts(url)
    assert "cret" not in str(info.value)
    assert info.value.__suppress_context__  # urllib's own error would show it
    assert "cret" not in maybe_sanitize_url(url)


@settings(deadline=None)
@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_what_is_put_together_can_be_taken_apart(user, password, path):
    parts = url_to_parts(as_url("amqp", "h", 1, user, password, path.replace("%", "")))
    assert (parts.username, parts.password) == (user, password)


def test_ipv6_hosts_are_put_together_again():
    url = as_url("amqp", "::1", 5672)
    assert url == "amqp://[::1]:5672/"
    assert url_to_parts(url).hostname == "::1"


@settings(deadline=None)
@given(st.text(alphabet="xyz!$&*()-_=%41", min_size=6))
def test_password_is_never_shown(password):
    quoted = password.replace("%", "%25")
    shown = sanitize_url(f"amqp://user:{quoted}@host:5672/vhost?token=1")
    assert shown == "amqp://user:**@host:5672/vhost"


def test_several_urls_are_masked_one_by_one():
    assert maybe_sanitize_url("amqp://u:p@a;redis://:q@b/0;memory://") == (
        "amqp://u:**@a/;redis://:**@b/0;memory:///"
    )
    assert "secret" not in maybe_sanitize_url("amqp://u:p@a:x;amqp://u:secret@b")


@pytest.mark.parametrize("value", [None, "localhost", {"a": 1}, 3])
def test_what_is_no_url_is_left_alone(value):
    assert maybe_sanitize_url(value) == value
