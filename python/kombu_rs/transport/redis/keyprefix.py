"""Keys with a prefix (``global_keyprefix``), for clients of redis-py."""

from __future__ import annotations

from ..._typing import Any, ClassVar

__all__ = ("GlobalKeyPrefixMixin",)


class GlobalKeyPrefixMixin:
    """Puts a prefix before the keys in what a redis-py client sends.

    Only in the commands below: a client for others has to write the prefix itself.
    """

    #: Commands whose first argument is the only key.
    PREFIXED_SIMPLE_COMMANDS: ClassVar[list[str]] = [
        "HDEL",
        "HGET",
        "HLEN",
        "HSET",
        "LLEN",
        "LPUSH",
        "PUBLISH",
        "RPUSH",
        "RPOP",
        "SADD",
        "SREM",
        "SET",
        "SMEMBERS",
        "ZADD",
        "ZRANGE",
        "ZREM",
        "PEXPIRE",
    ]

    #: Commands that have their keys from one argument to (before) another.
    PREFIXED_COMPLEX_COMMANDS: ClassVar[dict[str, dict[str, int | None]]] = {
        "DEL": {"args_start": 0, "args_end": None},
        "BRPOP": {"args_start": 0, "args_end": -1},
        "EVALSHA": {"args_start": 2, "args_end": 3},
        "WATCH": {"args_start": 0, "args_end": None},
    }

    #: The prefix.
    global_keyprefix: str

    def _prefix_args(self, args: Any) -> list[Any]:
        command, *rest = args
        if command in self.PREFIXED_SIMPLE_COMMANDS:
            keys = slice(0, 1)
        elif command in self.PREFIXED_COMPLEX_COMMANDS:
            where = self.PREFIXED_COMPLEX_COMMANDS[command]
            keys = slice(where["args_start"], where["args_end"])
        else:
            return [command, *rest]
        rest[keys] = [self._prefixed(key) for key in rest[keys]]
        return [command, *rest]

    def _prefixed(self, key: Any) -> Any:
        prefix = self.global_keyprefix
        return prefix.encode() + key if isinstance(key, bytes) else f"{prefix}{key}"

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Read a reply; the key in that of ``BRPOP`` loses the prefix."""
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        if command_name == "BRPOP" and reply:
            key, value = reply
            prefix = self.global_keyprefix
            bare = key.removeprefix(prefix.encode() if isinstance(key, bytes) else prefix)
            return bare, value
        return reply

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send a command whose keys get the prefix."""
        return super().execute_command(*self._prefix_args(args), **kwargs)  # type: ignore[misc]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Return a pipeline with the same prefix."""
        from .prefixed import PrefixedRedisPipeline

        return PrefixedRedisPipeline(
            self.connection_pool,  # type: ignore[attr-defined]
            self.response_callbacks,  # type: ignore[attr-defined]
            transaction,
            shard_hint,
            global_keyprefix=self.global_keyprefix,
        )
