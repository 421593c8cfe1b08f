"""Serializers: how a body becomes bytes, and who may be trusted to turn it back.

Names are what a producer asks for (``json``), content types are what travels
with the message (``application/json``). Reading is refused for the types that
can run code while they are read (pickle, yaml) or are not wanted (see
``accept``): a queue is often open to more people than the worker's machine.
"""

from __future__ import annotations

import os
from codecs import decode as _decode
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from ._typing import TYPE_CHECKING, Any, NamedTuple
from .exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled
from .utils.compat import entrypoints
from .utils.encoding import bytes_to_str, str_to_bytes

if TYPE_CHECKING:
    import pickle

__all__ = ("pickle", "loads", "dumps", "register", "unregister")

# There for an installed Kombu, not for us.
_OWN_ENTRY_POINT = "kombu_rs._entry_point"

#: Content encodings by which the data stays bytes.
SKIP_DECODE = frozenset(["binary", "ascii-8bit"])
#: Content types that are always read: nothing is run for them.
TRUSTED_CONTENT = frozenset(["application/data", "application/text"])

NOTSET = object()


def __getattr__(name: str) -> Any:
    # Only who uses pickle pays for importing it.
    if name == "pickle":
        import pickle

        return pickle
    if name == "pickle_protocol":
        return _pickle_protocol()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _pickle_protocol() -> int:
    """Return the protocol to write: ``PICKLE_PROTOCOL`` in the environment, or Python's default."""
    import pickle

    text = os.environ.get("PICKLE_PROTOCOL", str(pickle.DEFAULT_PROTOCOL))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"PICKLE_PROTOCOL={text!r}: must be a number") from None


class codec(NamedTuple):
    """What is written by one serializer, and how."""

    content_type: str
    content_encoding: str
    encoder: Callable[[Any], Any]


@contextmanager
def _reraise_errors(
    wrapper: type[Exception],
    include: tuple[type[BaseException], ...] = (Exception,),
    exclude: tuple[type[BaseException], ...] = (SerializerNotInstalled,),
) -> Iterator[None]:
    try:
        yield
    except exclude:
        raise
    except include as exc:
        raise wrapper(exc) from exc


def parenthesize_alias(first: str, second: str) -> str:
    """Return ``first (second)``, or just ``second`` if there is no ``first``."""
    return f"{first} ({second})" if first else second


def _nothing_registered(data: Any) -> Any:
    raise SerializerNotInstalled("No default serializer: see registry._set_default_serializer")


class SerializerRegistry:
    """Serializers by name, and their decoders by content type."""

    def __init__(self) -> None:
        self._encoders: dict[str | None, codec] = {}
        self._decoders: dict[Any, Callable[[Any], Any]] = {}
        self._default_encode: Callable[[Any], Any] = _nothing_registered
        self._default_content_type = ""
        self._default_content_encoding = ""
        self._disabled_content_types: set[str] = set()
        #: Name by content type.
        self.type_to_name: dict[Any, Any] = {}
        #: Content type by name.
        self.name_to_type: dict[Any, Any] = {}
        self._entry_points_pending = False

    def register(
        self,
        name: str,
        encoder: Callable[[Any], Any] | None,
        decoder: Callable[[Any], Any] | None,
        content_type: str,
        content_encoding: str = "utf-8",
    ) -> None:
        """Add a serializer, or replace it.

        Arguments:
            name: What producers ask for.
            encoder: Returns text or bytes for an object; ``None`` if it only reads.
            decoder: Returns the object for text or bytes; ``None`` if it only writes.
            content_type: What travels with the message.
            content_encoding: Of the text; ``binary`` for bytes.
        """
        if encoder:
            self._encoders[name] = codec(content_type, content_encoding, encoder)
        if decoder:
            self._decoders[content_type] = decoder
        self.type_to_name[content_type] = name
        self.name_to_type[name] = content_type

    def _load_entry_points(self) -> None:
        """Register what installed packages offer under ``kombu.serializers``.

        Done at the first use instead of at import, since the search takes
        longer than importing the package.
        """
        self._entry_points_pending = False
        for entry_point, args in entrypoints("kombu.serializers"):
            if entry_point.module != _OWN_ENTRY_POINT:
                self.register(entry_point.name, *args)

    def _content_type(self, name: str) -> str:
        if "/" in name:
            return name
        if self._entry_points_pending:
            self._load_entry_points()
        try:
            return self.name_to_type[name]
        except KeyError:
            raise KeyError(name) from None

    def enable(self, name: str) -> None:
        """Allow reading of ``name``, a serializer or a content type.

        Raises:
            KeyError: if there is no such serializer.
        """
        self._disabled_content_types.discard(self._content_type(name))

    def disable(self, name: str) -> None:
        """Refuse reading of ``name``, a serializer or a content type.

        Raises:
            KeyError: if there is no such serializer.
        """
        self._disabled_content_types.add(self._content_type(name))

    def unregister(self, name: str) -> None:
        """Remove a serializer.

        Raises:
            SerializerNotInstalled: if there is none of that name.
        """
        try:
            content_type = self.name_to_type.pop(name)
        except KeyError:
            raise SerializerNotInstalled(f"No encoder/decoder installed for {name}") from None
        self._decoders.pop(content_type, None)
        self.type_to_name.pop(content_type, None)
        self._encoders.pop(name, None)

    def _set_default_serializer(self, name: str) -> None:
        """Use ``name`` where no serializer is given.

        Raises:
            SerializerNotInstalled: if there is none of that name.
        """
        try:
            (self._default_content_type, self._default_content_encoding, self._default_encode) = (
                self._encoders[name]
            )
        except KeyError:
            raise self._no_encoder(name) from None

    def _no_encoder(self, name: Any) -> SerializerNotInstalled:
        known = ", ".join(sorted(str(each) for each in self._encoders if each))
        return SerializerNotInstalled(f"No encoder installed for {name}; installed are: {known}")

    def dumps(self, data: Any, serializer: str | None = None) -> tuple[Any, Any, Any]:
        """Return ``(content type, content encoding, payload)`` for ``data``.

        Without a serializer bytes are sent as they are
        (``application/data``), text as ``text/plain``, and anything else by
        the default serializer.

        Raises:
            SerializerNotInstalled: if there is no such serializer.
            EncodeError: if it cannot write ``data``.
        """
        if self._entry_points_pending:
            self._load_entry_points()
        if serializer:
            if serializer == "raw":
                return raw_encode(data)
            if serializer not in self._encoders:
                raise self._no_encoder(serializer)
            content_type, content_encoding, encoder = self._encoders[serializer]
        elif isinstance(data, bytes):
            return "application/data", "binary", data
        elif isinstance(data, str):
            with _reraise_errors(EncodeError, exclude=()):
                return "text/plain", "utf-8", data.encode("utf-8")
        else:
            content_type = self._default_content_type
            content_encoding = self._default_content_encoding
            encoder = self._default_encode
        try:
            return content_type, content_encoding, encoder(data)
        except SerializerNotInstalled:
            raise
        except Exception as exc:
            raise EncodeError(exc) from exc

    def loads(
        self,
        data: Any,
        content_type: Any,
        content_encoding: Any,
        accept: Collection[str] | None = None,
        force: bool = False,
        _trusted_content: Collection[str] = TRUSTED_CONTENT,
    ) -> Any:
        """Return the object for ``data``.

        Data of an unknown content type is decoded to text, or stays bytes if
        the content encoding says so. Empty data is returned as it is.

        Arguments:
            accept: Content types that may be read; ``None`` for all that are enabled.
            force: Read it although the content type is disabled.

        Raises:
            ContentDisallowed: if the content type is not accepted.
            DecodeError: if the data cannot be read.
        """
        if self._entry_points_pending:
            self._load_entry_points()
        content_type = bytes_to_str(content_type) if content_type else "application/data"
        if accept is not None:
            if content_type not in _trusted_content and content_type not in accept:
                raise self._for_untrusted_content(content_type, "untrusted", accept)
        elif content_type in self._disabled_content_types and not force:
            raise self._for_untrusted_content(content_type, "disabled")
        if not data:
            return data
        content_encoding = (content_encoding or "utf-8").lower()
        decoder = self._decoders.get(content_type)
        try:
            if decoder:
                return decoder(data)
            if content_encoding not in SKIP_DECODE and not isinstance(data, str):
                return _decode(data, content_encoding)
        except SerializerNotInstalled:
            raise
        except Exception as exc:
            raise DecodeError(exc) from exc
        return data

    def _for_untrusted_content(
        self,
        ctype: str,
        why: str,
        accept: Collection[str] | None = None,
    ) -> ContentDisallowed:
        if accept is None:
            accept = {each for each in self._decoders if each not in self._disabled_content_types}
        shown = ", ".join(sorted(str(each) for each in accept)) or "nothing"
        return ContentDisallowed(
            f"Refusing to deserialize {why} content of type "
            f"{parenthesize_alias(self.type_to_name.get(ctype, ctype), ctype)}; "
            f"accepted here: {shown}"
        )


#: The registry that the functions of this module use.
registry: SerializerRegistry = SerializerRegistry()

dumps = registry.dumps
loads = registry.loads
register = registry.register
unregister = registry.unregister


def raw_encode(data: Any) -> tuple[str, str, Any]:
    """Return text as UTF-8 and anything else as it is: the serializer ``raw``."""
    if isinstance(data, str):
        return "application/data", "utf-8", data.encode("utf-8")
    return "application/data", "binary", data


def register_json() -> None:
    """Register ``json``: :mod:`kombu_rs.utils.json`."""
    from .utils import json

    registry.register("json", json.dumps, json.loads, "application/json", "utf-8")


def _missing(name: str, package: str) -> SerializerNotInstalled:
    return SerializerNotInstalled(
        f"No decoder or encoder installed for {name}: pip install {package}"
    )


def register_yaml() -> None:
    """Register ``yaml``; PyYAML is imported when it is first used."""

    def library() -> Any:
        try:
            import yaml
        except ImportError:
            raise _missing("yaml", "PyYAML") from None
        return yaml

    def yaml_dumps(obj: Any) -> str:
        return library().safe_dump(obj)

    def yaml_loads(data: Any) -> Any:
        # PyYAML finds out the encoding of bytes, but takes no other buffer.
        if isinstance(data, (memoryview, bytearray)):
            data = bytes(data)
        return library().safe_load(data)

    registry.register("yaml", yaml_dumps, yaml_loads, "application/x-yaml", "utf-8")


def pickle_loads(s: Any, load: Callable[[Any], Any] | None = None) -> Any:
    """Return the object for pickled bytes (any buffer).

    Arguments:
        load: Reads from a file instead of :func:`pickle.load`.
    """
    if load is None:
        import pickle

        return pickle.loads(s)
    from io import BytesIO

    return load(BytesIO(s))


def unpickle(s: Any) -> Any:
    """Like :func:`pickle_loads`; text is taken as UTF-8."""
    return pickle_loads(str_to_bytes(s))


def register_pickle() -> None:
    """Register ``pickle``. Reading it runs what the sender likes: it is disabled by default."""

    def pickle_dumps(obj: Any) -> bytes:
        import pickle

        return pickle.dumps(obj, protocol=_pickle_protocol())

    registry.register("pickle", pickle_dumps, unpickle, "application/x-python-serialize", "binary")


def register_msgpack() -> None:
    """Register ``msgpack``; the library of that name is imported when it is first used."""

    def library() -> Any:
        try:
            import msgpack
        except ImportError:
            raise _missing("msgpack", "msgpack") from None
        return msgpack

    def msgpack_dumps(obj: Any) -> bytes:
        return library().packb(obj, use_bin_type=True)

    def msgpack_loads(data: Any) -> Any:
        return library().unpackb(data, raw=False)

    registry.register("msgpack", msgpack_dumps, msgpack_loads, "application/x-msgpack", "binary")


def enable_insecure_serializers(choices: Any = NOTSET) -> None:
    """Allow reading of serializers that are disabled by default.

    Arguments:
        choices (Sequence[str]): Their names; by default ``pickle``, ``yaml`` and ``msgpack``.
            Of these one whose library is not installed is passed over.

    Raises:
        KeyError: there is no serializer of that name (Kombu passes over it).
    """
    optional = ("pickle", "yaml", "msgpack")
    for name in (optional if choices is NOTSET else choices) or ():
        try:
            registry.enable(name)
        except KeyError:
            if name not in optional:
                raise


def disable_insecure_serializers(allowed: Any = NOTSET) -> None:
    """Refuse reading of all serializers but some.

    Arguments:
        allowed (Sequence[str]): Those that are read; by default ``json``.
            ``None`` for none.
    """
    if getattr(registry, "_entry_points_pending", False) is True:
        registry._load_entry_points()
    _disable_all_but(["json"] if allowed is NOTSET else allowed)


def _disable_all_but(allowed: Collection[str] | None) -> None:
    for name in list(registry._decoders):
        registry.disable(name)
    for name in allowed or ():
        registry.enable(name)


def prepare_accept_content(
    content_types: Collection[str] | None,
    name_to_type: dict[str, str] | None = None,
) -> Any:
    """Return the set of content types for names and content types; ``None`` stays ``None``.

    Raises:
        SerializerNotInstalled: if a name is not registered.
    """
    if content_types is None:
        return None
    if name_to_type is None:
        name_to_type = registry.name_to_type
        if registry._entry_points_pending and any(
            "/" not in each and each not in name_to_type for each in content_types
        ):
            registry._load_entry_points()
    unknown = [each for each in content_types if "/" not in each and each not in name_to_type]
    if unknown:
        raise SerializerNotInstalled(
            f"No encoder/decoder installed for {unknown[0]}; installed are: "
            f"{', '.join(sorted(str(each) for each in name_to_type if each))}"
        )
    return {each if "/" in each else name_to_type[each] for each in content_types}


register_json()
register_pickle()
register_yaml()
register_msgpack()
registry._set_default_serializer("json")
_disable_all_but(["json"])
registry._entry_points_pending = True
