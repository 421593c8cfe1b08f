"""Compression of bodies: zlib, bz2, lzma, zstd and brotli, where Python has them.

The standard library is enough for the first three (and for zstd from Python
3.14 on); zstd otherwise needs ``backports.zstd`` or ``zstandard``, brotli needs
``brotli`` or ``brotlicffi``. Modules are imported when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

from ._typing import Any
from .utils.compat import entrypoints
from .utils.encoding import ensure_bytes

__all__ = ("register", "encoders", "get_encoder", "get_decoder", "compress", "decompress")

Coder = Callable[[bytes], bytes]

_aliases: dict[str, str] = {}
_encoders: dict[str, Coder] = {}
_decoders: dict[str, Coder] = {}

# Content type to the modules that have `compress` and `decompress` for it,
# the best first; taken out when one of them was imported.
_pending: dict[str, tuple[str, ...]] = {}
_entry_points_pending = True


def register(
    encoder: Coder | None,
    decoder: Coder | None,
    content_type: str,
    aliases: Iterable[str] | None = None,
) -> None:
    """Add a compression, or replace it.

    Arguments:
        encoder: Returns bytes, compressed; ``None`` if it only decompresses.
        decoder: Returns them as they were.
        content_type: What travels with the message.
        aliases: Names under which it is known as well.
    """
    _pending.pop(content_type, None)
    if encoder:
        _encoders[content_type] = encoder
    if decoder:
        _decoders[content_type] = decoder
    _aliases.update((alias, content_type) for alias in aliases or ())


def _register_later(content_type: str, modules: tuple[str, ...], aliases: Iterable[str]) -> None:
    _pending[content_type] = modules
    _aliases.update((alias, content_type) for alias in aliases)


def _import_pending(content_type: str) -> None:
    for name in _pending.pop(content_type, ()):
        try:
            module = import_module(name)
        except ImportError:
            continue
        decoder = _zstandard_decompress if name == "zstandard" else module.decompress
        register(module.compress, decoder, content_type)
        return


def _zstandard_decompress(body: bytes) -> bytes:
    # The library's own `decompress` refuses frames that do not tell the size of their content.
    from zstandard import ZstdDecompressor

    frame = ZstdDecompressor().decompressobj()
    content = frame.decompress(body)
    if not frame.eof:
        raise ValueError("the zstd frame ends too early")
    return content


def _load_everything() -> None:
    """Import what there is, and what installed packages offer.

    That is, under the entry points ``kombu.compression``: tuples of encoder, decoder and
    content type, the name being an alias.
    """
    global _entry_points_pending
    for content_type in list(_pending):
        _import_pending(content_type)
    if _entry_points_pending:
        _entry_points_pending = False
        for entry_point, (encoder, decoder, content_type) in entrypoints("kombu.compression"):
            register(encoder, decoder, content_type, [entry_point.name])


def encoders() -> list[str]:
    """Return the content types that can be compressed to."""
    _load_everything()
    return list(_encoders)


def _find(table: dict[str, Coder], name: str) -> tuple[Coder, str]:
    content_type = _aliases.get(name, name)
    if content_type in _pending:
        _import_pending(content_type)
    if content_type not in table:
        _load_everything()
        content_type = _aliases.get(name, name)
    try:
        return table[content_type], content_type
    except KeyError:
        known = ", ".join(sorted({*(a for a, t in _aliases.items() if t in table), *table}))
        raise KeyError(
            f"no compression {name!r} (is its library installed?); there are: {known}"
        ) from None


def get_encoder(t: str) -> tuple[Coder, str]:
    """Return the function that compresses, and the content type, for a name or content type.

    Raises:
        KeyError: if there is none.
    """
    return _find(_encoders, t)


def get_decoder(t: str) -> Coder:
    """Return the function that decompresses for a name or content type.

    Raises:
        KeyError: if there is none.
    """
    return _find(_decoders, t)[0]


def compress(body: Any, content_type: str) -> tuple[bytes, str]:
    """Return ``body`` compressed, and the content type of that.

    Arguments:
        body (str | bytes): Text is taken as UTF-8.
        content_type: Name or content type of the compression.
    """
    encoder, content_type = get_encoder(content_type)
    return encoder(ensure_bytes(body)), content_type


def decompress(body: bytes, content_type: str) -> bytes:
    """Return ``body`` as it was before it was compressed to ``content_type``."""
    return get_decoder(content_type)(body)


_register_later("application/x-gzip", ("zlib",), ["gzip", "zlib"])
_register_later("application/x-bz2", ("bz2",), ["bzip2", "bzip"])
_register_later("application/x-brotli", ("brotli", "brotlicffi"), ["brotli"])
_register_later("application/x-lzma", ("lzma",), ["lzma", "xz"])
_register_later(
    "application/zstd", ("compression.zstd", "backports.zstd", "zstandard"), ["zstd", "zstandard"]
)
