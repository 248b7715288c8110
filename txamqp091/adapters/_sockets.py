# -*- test-case-name: txamqp091.test.test_blocking -*-
"""
A socket as a transport, with TLS by Python's own ssl module.  A `SelectorLoop` tells it
when to read and write.
"""

from __future__ import annotations

__all__ = ["SelectorTransport"]

import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import cast

from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.logger import Logger

from txamqp091.adapters._loops import READ, WRITE, SelectorLoop
from txamqp091.adapters._transports import Transport, address_of

_READ_SIZE = 65536

#: How much is tried to be written at a time.
_WRITE_SIZE = 1 << 18

_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError,
                ssl.SSLWantWriteError)  # fmt: skip


class SelectorTransport(Transport):
    """
    A socket, perhaps with TLS, as a transport.

    :ivar bufferSize: how many bytes may wait before the producer is paused.
    """

    _log = Logger()

    bufferSize = 65536

    def __init__(self, loop: SelectorLoop, sock: socket.socket) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._pieces: deque[memoryview] = deque()
        self._size = 0
        self._reading = True
        self._paused = False
        self._events = 0
        self._over = False

    def begin(self, factory: IProtocolFactory) -> None:
        """
        Make the protocol, and tell it that it is connected.
        """
        protocol = factory.buildProtocol(self.getPeer())
        tls = self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        self.made(protocol, tls)
        self._watch()
        if tls is not None and tls.pending():
            self._loop.callLater(0, self._read)

    def _watch(self) -> None:
        events = 0
        if self.connected:
            events = (READ if self._reading else 0) | (WRITE if self._pieces else 0)
        if events != self._events:
            self._events = events
            self._loop.watch(self._sock, events, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._write()
        if mask & READ and self._reading:
            self._read()

    def _read(self) -> None:
        while self.connected and self._reading:
            try:
                data = self._sock.recv(_READ_SIZE)
            except _WOULD_BLOCK:
                return
            except OSError as problem:
                self._end(problem)
                return
            if not data:
                self._end(None)
                return
            try:
                self.protocol.dataReceived(data)
            except Exception as problem:
                self._log.failure("A protocol failed, and its connection is dropped")
                self._end(problem)
                return
            # What TLS has taken from the socket already, the selector cannot see.
            if self._ssl is None or not cast(ssl.SSLSocket, self._sock).pending():
                return

    def _write(self) -> None:
        pieces = self._pieces
        try:
            while pieces:
                piece = pieces[0]
                sent = self._sock.send(piece[:_WRITE_SIZE])
                self._size -= sent
                if sent == len(piece):
                    pieces.popleft()
                else:
                    pieces[0] = piece[sent:]
        except _WOULD_BLOCK:
            pass
        except OSError as problem:
            self._end(problem)
            return
        if not pieces:
            if self.disconnecting:
                self._end(None)
            elif self._paused:
                self._paused = False
                self.drained()
        self._watch()

    def _end(self, problem: BaseException | None) -> None:
        """
        It is over; the protocol is told in a turn of its own.
        """
        if not self._over:
            self._over = self.disconnecting = True
            self._reading = False
            self._pieces.clear()
            self._events = 0
            self._loop.watch(self._sock, 0, self._ready)
            if isinstance(self._sock, ssl.SSLSocket) and not self.aborted:
                with suppress(OSError, ValueError):
                    self._sock.unwrap()  # says goodbye, and does not wait for theirs
            self._sock.close()
            self._loop.callLater(0, self.gone, problem)

    # -- what the protocol calls ---------------------------------------------------

    def write(self, data: bytes) -> None:
        """
        See ``ITransport``.
        """
        if self.disconnecting or not data:
            return
        sent = 0
        if not self._pieces:
            try:
                sent = self._sock.send(data)
            except _WOULD_BLOCK:
                pass
            except OSError as problem:
                self._end(problem)
                return
            if sent == len(data):
                return
        self._pieces.append(memoryview(data)[sent:])
        self._size += len(data) - sent
        self._watch()
        if self._size > self.bufferSize and not self._paused:
            self._paused = True
            self.full()

    def loseConnection(self) -> None:
        """
        See ``ITransport``.
        """
        if not self.disconnecting:
            self.disconnecting = True
            if not self._pieces:
                self._end(None)

    def abortConnection(self) -> None:
        """
        See ``ITCPTransport``.
        """
        self.aborted = self.connected
        self._end(None)

    def pauseProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        self._reading = False
        self._watch()

    def resumeProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        if not self.disconnecting:
            self._reading = True
            self._watch()
            if self._ssl is not None:
                self._loop.callLater(0, self._read)

    def getPeer(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return address_of(self._sock.getpeername())

    def getHost(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return address_of(self._sock.getsockname())
