"""Publishing many messages in one go: what :meth:`kombu_rs.Producer.batch` returns."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType

from ._typing import Any

__all__ = ("DEFAULT_BATCH_SIZE",)

DEFAULT_BATCH_SIZE = 1000


class _ProducerBatchState:
    """What one thread has collected with one producer; shared by nested batches.

    Arguments:
        max_size: handed to the channel's ``create_publish_batch``.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.depth = 0
        self.aborted = False
        self.session: Any = None
        self.channel: Any = None

    def _get_session(self, channel: Any) -> Any:
        """The channel's batch, made at the first message; None where the channel has none."""
        if self.aborted:
            raise RuntimeError("Cannot publish in an aborted batch")
        if self.session is not None:
            if channel is not self.channel:
                # What was collected can no longer be sent, and nobody may think that it was.
                raise RuntimeError("Producer channel changed while a publish batch was active")
            return self.session
        create = getattr(channel, "create_publish_batch", None)
        if create is not None and getattr(channel, "supports_batch_publish", True):
            self.session = create(max_size=self.max_size)
            self.channel = channel
        return self.session

    def publish(self, channel: Any, message: Any, **kwargs: Any) -> Any:
        """Collect a message, or publish it at once where the channel cannot collect."""
        session = self._get_session(channel)
        if session is None:
            return channel.basic_publish(message, **kwargs)
        return session.publish(message, **kwargs)

    def flush(self) -> None:
        """Send what was collected."""
        if self.session is not None and not self.aborted:
            self.session.flush()

    def abort(self) -> None:
        """Drop what was collected; later messages are refused."""
        if self.aborted:
            return
        self.aborted = True
        if self.session is not None:
            # The error that led here is the one to see.
            with suppress(Exception):
                self.session.discard()

    def close(self) -> None:
        """Give up the channel's batch."""
        session, self.session, self.channel = self.session, None, None
        if session is not None:
            session.close()


class _ProducerBatch:
    """The context manager around a batch.

    Arguments:
        producer: whose messages.
        max_size: send whenever so many have come together.

    Raises:
        ValueError: ``max_size`` is not a positive integer.
    """

    def __init__(self, producer: Any, max_size: int) -> None:
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size must be a positive integer, got {max_size!r}")
        self.producer = producer
        self.max_size = max_size
        self._state: _ProducerBatchState | None = None

    def __enter__(self) -> _ProducerBatch:
        if self._state is not None:
            raise RuntimeError("A publish batch context cannot be re-entered")
        active = self.producer._batch_local
        state = getattr(active, "state", None)
        if state is None:
            state = active.state = _ProducerBatchState(self.max_size)
        state.depth += 1
        self._state = state
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state, self._state = self._state, None
        if state is None:
            return
        state.depth -= 1
        outermost = state.depth == 0
        if outermost:
            self.producer._batch_local.state = None
        if exc_type is not None:
            state.abort()
            if outermost:
                with suppress(Exception):
                    state.close()
        elif outermost:
            try:
                state.flush()
            except BaseException:
                with suppress(Exception):
                    state.close()
                raise
            state.close()

    def flush(self) -> None:
        """Send what was collected so far.

        Raises:
            RuntimeError: not inside the ``with`` block.
        """
        if self._state is None:
            raise RuntimeError("The publish batch is not active")
        self._state.flush()
