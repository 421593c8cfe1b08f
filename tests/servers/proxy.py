"""A TCP proxy that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

#: ``up`` is from the client to the server, ``down`` the way back.
Direction = Literal["up", "down", "both"]

T = TypeVar("T")
_CHUNK = 65536


@dataclass
class _Lane:
    """What happens to the bytes of one direction, for all connections."""

    delay: float = 0.0
    swallow: bool = False
    budget: int | None = None
    garble: random.Random | None = None
    passed: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Pair:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The ends for which bytes were swallowed: nothing comes to them any more, and nobody is told.
    lost: set[asyncio.StreamWriter] = field(default_factory=set)
    #: The ends that were told that nothing more comes.
    shut: set[asyncio.StreamWriter] = field(default_factory=set)

    def shut_down(self, end: asyncio.StreamWriter) -> None:
        """Sends FIN to an end, once; what would come after it is dropped."""
        if end not in self.shut and end.can_write_eof():
            end.write_eof()
        self.shut.add(end)

    def ends(self) -> tuple[asyncio.StreamWriter, asyncio.StreamWriter]:
        return self.client, self.server


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `host`:`port`; its methods break things.

    It runs on a thread of its own; any thread may call its methods, which return when done.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target = (host, port)
        self.port = 0
        self.accepted = 0
        self._lanes: dict[str, _Lane] = {}
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fault-proxy", daemon=True
        )

    # -- life --

    def start(self) -> None:
        """Starts to listen."""
        self._thread.start()
        self._call(self._open())

    def stop(self) -> None:
        """Closes everything."""
        if not self._thread.is_alive():
            return
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- faults --

    def cut(self) -> None:
        """Closes every connection in order (FIN to both ends); new ones are accepted."""
        self._call(self._drop(reset=False))

    def reset(self) -> None:
        """Closes every connection hard (RST to both ends); new ones are accepted."""
        self._call(self._drop(reset=True))

    def refuse(self) -> None:
        """Stops listening: new connections are refused. Those that are open stay."""
        self._call(self._stop_listening())

    def accept(self) -> None:
        """Listens again after `refuse`, on the same port."""
        self._call(self._listen())

    def blackhole(self, direction: Direction = "both") -> None:
        """Swallows all bytes of a direction, on old and new connections; nobody is told.

        A direction that has lost bytes stays dead after `heal`: a stream has no holes.
        """
        self._each(direction, swallow=True)

    def half_open(self) -> None:
        """Swallows what is sent on the open connections from now on; new ones work at once.

        As when the peer's machine was replaced, or a gateway forgot the connections.
        """
        self._call(self._abandon())

    def hold(self, direction: Direction = "both") -> None:
        """Stops reading a direction: buffers fill up, nothing is lost."""
        self._call(self._gate(direction, False))

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Every chunk of a direction arrives `seconds` later."""
        self._each(direction, delay=seconds)

    def cut_after(self, count: int, direction: Direction = "up") -> None:
        """Lets `count` more bytes of a direction pass, then closes the connection they ended on."""
        self._each(direction, budget=count)

    def garble(self, dice: random.Random, direction: Direction = "down") -> None:
        """Puts random bytes in the place of the next chunk of a direction."""
        self._each(direction, garble=dice)

    def half_close(self, direction: Direction = "down") -> None:
        """Sends FIN along a direction; the other direction goes on."""
        self._call(self._half_close(direction))

    def heal(self) -> None:
        """Ends every fault: bytes pass again and new connections are accepted."""
        self._each("both", delay=0.0, swallow=False, budget=None, garble=None)
        self._call(self._gate("both", True))
        self._call(self._listen())

    def passed(self, direction: Literal["up", "down"]) -> int:
        """How many bytes went through in a direction."""
        return self._lanes[direction].passed

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._pairs)

    # -- inside --

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _each(self, direction: Direction, **changes: Any) -> None:
        async def change() -> None:
            for name in ("up", "down") if direction == "both" else (direction,):
                for key, value in changes.items():
                    setattr(self._lanes[name], key, value)

        self._call(change())

    async def _open(self) -> None:
        self._lanes = {"up": _Lane(), "down": _Lane()}
        await self._gate("both", True)
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._stop_listening()
        await self._drop(reset=False)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gate(self, direction: Direction, is_open: bool) -> None:
        for name in ("up", "down") if direction == "both" else (direction,):
            gate = self._lanes[name].open
            gate.set() if is_open else gate.clear()

    async def _drop(self, *, reset: bool) -> None:
        for pair in list(self._pairs):
            self._drop_pair(pair, reset=reset)

    def _drop_pair(self, pair: _Pair, *, reset: bool = False) -> None:
        self._pairs.discard(pair)
        for end in pair.ends():
            raw = end.get_extra_info("socket")
            with contextlib.suppress(OSError):
                if reset:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    # A forked child may share this socket: closing alone would tell nobody.
                    raw.shutdown(socket.SHUT_RDWR)
            end.transport.abort()

    async def _abandon(self) -> None:
        for pair in self._pairs:
            pair.lost.update(pair.ends())

    async def _half_close(self, direction: Direction) -> None:
        for pair in self._pairs:
            if direction in ("up", "both"):
                pair.shut_down(pair.server)
            if direction in ("down", "both"):
                pair.shut_down(pair.client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            try:
                server_reader, server_writer = await asyncio.open_connection(*self.target)
            except OSError:
                writer.transport.abort()
                return
            pair = _Pair(writer, server_writer)
            self._pairs.add(pair)
            try:
                await asyncio.gather(
                    self._pump(pair, reader, server_writer, self._lanes["up"]),
                    self._pump(pair, server_reader, writer, self._lanes["down"]),
                )
            finally:
                if pair in self._pairs:
                    self._drop_pair(pair)
        except asyncio.CancelledError:
            pass  # `stop` ends the task; asyncio would log the cancellation of a server's callback
        finally:
            self._tasks.discard(task)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: _Lane
    ) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            while True:
                await lane.open.wait()
                data = await reader.read(_CHUNK)
                await lane.open.wait()
                if not data:
                    if not lane.swallow and writer not in pair.lost:
                        pair.shut_down(writer)
                    return
                if lane.delay:
                    await asyncio.sleep(lane.delay)
                if lane.swallow:
                    pair.lost.add(writer)
                if writer in pair.lost or writer in pair.shut:
                    continue
                if lane.garble is not None:
                    data, lane.garble = lane.garble.randbytes(len(data)), None
                if lane.budget is not None:
                    data = data[: lane.budget]
                    lane.budget -= len(data)
                lane.passed += len(data)
                writer.write(data)
                await writer.drain()
                if lane.budget == 0:
                    lane.budget = None
                    self._drop_pair(pair)
                    return
