"""Compression of bodies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_rs import compression

NAMES = ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz", "brotli", "zstd", "zstandard"]


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name):
    if compression._aliases[name] not in compression.encoders():
        pytest.skip(f"no library for {name}")

    @settings(deadline=None)  # the first call imports the library
    @given(st.binary())
    def check(body):
        packed, content_type = compression.compress(body, name)
        assert compression.decompress(packed, content_type) == body

    check()


def test_standard_library_is_always_there():
    assert {"application/x-gzip", "application/x-bz2", "application/x-lzma"} <= set(
        compression.encoders()
    )


def test_zstandard_reads_frames_without_a_size():
    zstandard = pytest.importorskip("zstandard")
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 100)
    assert compression._zstandard_decompress(frame) == b"abc" * 100
    with pytest.raises(ValueError, match="too early"):
        compression._zstandard_decompress(frame[:-3])


def test_text_is_taken_as_utf8():
    packed, content_type = compression.compress("é", "zlib")
    assert compression.decompress(packed, content_type) == "é".encode()


def test_unknown_name_lists_those_that_are_there():
    with pytest.raises(KeyError, match=r"nope.*zlib"):
        compression.compress(b"", "nope")
    with pytest.raises(KeyError, match=r"nope.*zlib"):
        compression.decompress(b"", "nope")


def test_own_compression():
    compression.register(lambda b: b[::-1], lambda b: b[::-1], "application/x-rev", ["rev"])
    try:
        assert compression.compress(b"abc", "rev") == (b"cba", "application/x-rev")
        assert compression.get_decoder("rev")(b"cba") == b"abc"
    finally:
        for table in (compression._encoders, compression._decoders):
            del table["application/x-rev"]
        del compression._aliases["rev"]
