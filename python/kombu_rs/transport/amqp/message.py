"""A message to publish."""

from __future__ import annotations

from ..._typing import Any

__all__ = ("BasicMessage",)


class BasicMessage:
    """A message as ``basic_publish`` takes it: what py-amqp calls ``amqp.Message``.

    Arguments:
        body: text or bytes; text is encoded as ``content_encoding`` says (default: UTF-8).
        channel: where it was received; None.
        properties: AMQP's properties by their names; headers are ``application_headers``.
    """

    __slots__ = ("__weakref__", "body", "channel", "delivery_info", "properties")

    def __init__(
        self, body: Any = "", children: Any = None, channel: Any = None, **properties: Any
    ) -> None:
        self.body = body
        self.channel = channel
        self.delivery_info: dict[str, Any] | None = None
        self.properties = {name: value for name, value in properties.items() if value is not None}

    @property
    def headers(self) -> Any:
        """The application's headers."""
        return self.properties.get("application_headers")

    @property
    def delivery_tag(self) -> Any:
        """None: it was not delivered."""
        return (self.delivery_info or {}).get("delivery_tag")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BasicMessage):
            return NotImplemented
        return (self.body, self.properties) == (other.body, other.properties)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.properties!r}>"
