"""boto3, if it is installed."""

from __future__ import annotations

from typing import Any

__all__ = ("BotoCoreError", "ClientError", "Config", "boto3", "error_code")

boto3: Any = None
Config: Any = None
try:
    import boto3  # type: ignore[no-redef]
    from botocore.config import Config  # type: ignore[no-redef]
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:  # the transport says so when it is used

    class BotoCoreError(Exception):  # type: ignore[no-redef]
        """For ``except`` clauses: nothing raises it without boto3."""

    class ClientError(Exception):  # type: ignore[no-redef]
        """For ``except`` clauses: nothing raises it without boto3."""

        response: Any = None


def error_code(error: Any) -> str:
    """Return the code of a :exc:`ClientError` without the prefix that some protocols give it.

    ``AWS.SimpleQueueService.NonExistentQueue`` is ``NonExistentQueue``.
    """
    code = (error.response or {}).get("Error", {}).get("Code") or ""
    return str(code).rpartition(".")[2]
