"""Bodies of SQS messages."""

from __future__ import annotations

import base64
from typing import Any

from ....message import Message
from ....utils.encoding import bytes_to_str, str_to_bytes

__all__ = ("AsyncMessage", "AsyncRawMessage", "BaseAsyncMessage", "Message")


class BaseAsyncMessage(Message):
    """Base of messages as SQS has them."""


class AsyncRawMessage(BaseAsyncMessage):
    """A message whose body is sent as it is."""


class AsyncMessage(BaseAsyncMessage):
    """A message whose body is sent in Base64: SQS takes text only, and not all of that."""

    def encode(self, value: str | bytes) -> str:
        """Return ``value`` as SQS gets it."""
        return bytes_to_str(base64.b64encode(str_to_bytes(value)))

    def __getitem__(self, item: str) -> Any:
        """Return what boto3's dictionaries have under ``Body`` and ``ReceiptHandle``.

        Raises:
            KeyError: it is another name.
        """
        if item == "Body":
            return self.body
        if item == "ReceiptHandle":
            return self.delivery_tag
        raise KeyError(item)
