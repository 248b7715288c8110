# -*- test-case-name: txamqp091.test.support.test_chaos -*-
"""
A network that misbehaves on demand.

`ChaosProxy` stands between a client and a real broker.  It can stop forwarding and
close nothing, reset or close connections, refuse new ones, slow traffic down, cut a
connection in the middle of a given frame, change frames, and put bytes of its own
into the stream.  It works in a thread of its own, so it serves clients of any kind.
A broker that misbehaves is in `txamqp091.test.support.scripted`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from txamqp091.test.support.processes import HOST
from txamqp091.wire.method import METHODS, Method
from txamqp091.wire.spec import FRAME_END, FRAME_METHOD

__all__ = [
    "ChaosProxy",
    "Cut",
    "Direction",
    "Frame",
    "Framer",
    "Link",
    "reset_on_close",
]


class Frame(NamedTuple):
    """
    A frame as it came, right or wrong.
    """

    kind: int
    channel: int
    payload: bytes = b""
    end: int = FRAME_END

    @property
    def method(self) -> type[Method] | None:
        """
        The class of the method that a method frame carries.
        """
        return METHODS.get(self.payload[:4]) if self.kind == FRAME_METHOD else None

    def encode(self) -> bytes:
        """
        The frame's bytes.
        """
        head = struct.pack(">BHI", self.kind, self.channel, len(self.payload))
        return head + self.payload + bytes([self.end])


class Framer:
    """
    Cuts a stream into frames, and judges none of them.  A protocol header comes
    out as `bytes`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame | bytes]:
        """
        Take bytes, and give out what is complete.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 8:
            unit: Frame | bytes
            if buffer.startswith(b"AMQP"):
                size = 8
                unit = bytes(buffer[:size])
            else:
                kind, channel, length = struct.unpack_from(">BHI", buffer)
                size = length + 8
                if len(buffer) < size:
                    return
                payload = bytes(buffer[7 : size - 1])
                unit = Frame(kind, channel, payload, buffer[size - 1])
            del buffer[:size]
            yield unit


class Direction(enum.Enum):
    """
    Where bytes are going.
    """

    UP = "to the broker"
    DOWN = "to the client"


@dataclass(frozen=True)
class Cut:
    """
    What a frame hook returns to end a connection there and then.

    :ivar data: what the receiver still gets, such as half a frame.
    :ivar how: ``reset``, ``close``, or ``hole``: stay open, and say no more.
    """

    data: bytes = b""
    how: str = "reset"


#: Sees every frame, or protocol header, before it is forwarded.  Returns `None` to
#: forward it, other bytes to forward instead, or a `Cut`.
FrameHook = Callable[["Frame | bytes", Direction, "Link"], "bytes | Cut | None"]


def reset_on_close(sock: socket.socket) -> None:
    """
    Have a socket closed with a reset: it lingers for no time at all.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Link:
    """
    One connection through the proxy.

    :ivar number: 1 for the first that the proxy accepted.
    """

    def __init__(
        self, number: int, client: asyncio.StreamWriter, broker: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.writers = {Direction.UP: broker, Direction.DOWN: client}
        # A TLS transport that was closed does not tell its socket any more.
        self._sockets = [each.get_extra_info("socket") for each in (client, broker)]

    def end(self, how: str) -> None:
        """
        End both sides, by ``reset`` or by ``close``.
        """
        if how == "reset":
            for sock in self._sockets:
                reset_on_close(sock)
        for writer in self.writers.values():
            writer.transport.abort() if how == "reset" else writer.close()


class ChaosProxy:
    """
    A TCP proxy that can be told to misbehave::

        with ChaosProxy(node.port) as proxy:
            connect(proxy.port)
            proxy.hole()

    :ivar port: where clients connect to.
    :ivar accepted: how many connections there have been.
    :ivar links: those there are.
    """

    def __init__(
        self,
        target: int,
        *,
        on_frame: FrameHook | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        :param target: the broker's port.
        :param on_frame: called, in the proxy's thread, with everything that is to
            be forwarded.
        :param tls: serve TLS with this context, and speak to the broker in the
            clear: this puts any certificate in front of a broker.
        """
        self.port = 0
        self.accepted = 0
        self.links: list[Link] = []
        self._target = target
        self._on_frame = on_frame
        self._tls = tls
        self._rates: dict[Direction, float] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._gates = {direction: asyncio.Event() for direction in Direction}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """
        Listen.
        """
        self._thread.start()
        self.heal()
        self.accept()

    def stop(self) -> None:
        """
        Reset what is open, and listen no more.
        """
        if not self._loop.is_closed():
            self._call(self._shut_down())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> ChaosProxy:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    # -- faults --------------------------------------------------------------------

    def hole(self, *directions: Direction) -> None:
        """
        Forward nothing any more, in these directions or in both, and keep every
        connection open: the peer has vanished without a word.
        """
        self._call(self._gate(directions or tuple(Direction), False))

    def heal(self) -> None:
        """
        Forward again, first of all what was held back.
        """
        self._call(self._gate(tuple(Direction), True))

    def reset(self) -> None:
        """
        End every connection with a TCP reset, on both sides.
        """
        self._call(self._end_links("reset"))

    def close(self) -> None:
        """
        End every connection in order, on both sides.
        """
        self._call(self._end_links("close"))

    def refuse(self) -> None:
        """
        Refuse new connections.
        """
        self._call(self._unlisten())

    def accept(self) -> None:
        """
        Accept connections, after `refuse` on the same port as before.
        """
        self._call(self._listen())

    def slow(self, up: float = 0.0, down: float = 0.0) -> None:
        """
        Limit the bytes per second, 0 meaning no limit.
        """
        rates = {Direction.UP: up, Direction.DOWN: down}
        self._rates = {each: rate for each, rate in rates.items() if rate}

    def inject(self, data: bytes, direction: Direction = Direction.DOWN) -> None:
        """
        Put bytes into every connection.  They fall between two frames only if there
        is a frame hook, or no traffic.
        """
        self._call(self._inject(data, direction))

    # -- in the loop's thread ------------------------------------------------------

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, HOST, self.port, ssl=self._tls
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _shut_down(self) -> None:
        await self._unlisten()
        await self._end_links("reset")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gate(self, directions: tuple[Direction, ...], opened: bool) -> None:
        for direction in directions:
            gate = self._gates[direction]
            gate.set() if opened else gate.clear()

    async def _end_links(self, how: str) -> None:
        for link in self.links:
            link.end(how)

    async def _inject(self, data: bytes, direction: Direction) -> None:
        for link in self.links:
            link.writers[direction].write(data)

    async def _connected(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = None
        try:
            from_broker, to_broker = await asyncio.open_connection(HOST, self._target)
            link = Link(self.accepted, to_client, to_broker)
            self.links.append(link)
            await asyncio.gather(
                self._pump(from_client, Direction.UP, link),
                self._pump(from_broker, Direction.DOWN, link),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if link is None:
                to_client.transport.abort()
            else:
                link.end("close")
                self.links.remove(link)
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, direction: Direction, link: Link
    ) -> None:
        framer = Framer()
        while data := await reader.read(65536):
            if self._on_frame is None:
                await self._forward(data, direction, link)
                continue
            for unit in framer.feed(data):
                result = self._on_frame(unit, direction, link)
                if isinstance(result, Cut):
                    await self._cut(result, direction, link)
                    return
                if result is None:
                    result = unit.encode() if isinstance(unit, Frame) else unit
                await self._forward(result, direction, link)
        await self._gates[direction].wait()
        link.writers[direction].close()

    async def _cut(self, cut: Cut, direction: Direction, link: Link) -> None:
        await self._forward(cut.data, direction, link)
        if cut.how == "hole":
            await asyncio.Event().wait()
        # A reset makes the receiver's kernel drop what was not read yet: leave it
        # the time to read.
        await asyncio.sleep(0.5 if cut.data else 0.1)
        link.end(cut.how)

    async def _forward(self, data: bytes, direction: Direction, link: Link) -> None:
        rate = self._rates.get(direction)
        step = max(1, int(rate / 20)) if rate else max(1, len(data))
        for start in range(0, len(data), step):
            if rate:
                await asyncio.sleep(step / rate)
            await self._gates[direction].wait()
            link.writers[direction].write(data[start : start + step])
            await link.writers[direction].drain()
