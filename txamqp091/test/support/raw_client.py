# -*- test-case-name: txamqp091.test.unit.testing.test_memory -*-
"""
A client by hand: it says what it is told to, right or wrong, and keeps what it hears.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Any, TypeVar

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from txamqp091.test.support.recording import frames
from txamqp091.wire import spec
from txamqp091.wire.frames import FRAME_OVERHEAD
from txamqp091.wire.method import Method, decode_method

__all__ = ["CAPABILITIES", "HANDSHAKE", "RawClient", "handshake"]

CAPABILITIES = {
    "authentication_failure_close": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
}

M = TypeVar("M", bound=Method)


def handshake(
    *,
    mechanism: str = "PLAIN",
    response: bytes = b"\0guest\0guest",
    capabilities: Any = None,
    heartbeat: int = 0,
    vhost: str = "/",
) -> bytes:
    """
    All that a client says to have its connection opened, without waiting for anything.
    """
    properties = {
        "capabilities": CAPABILITIES if capabilities is None else capabilities
    }
    return spec.PROTOCOL_HEADER + frames(
        0,
        spec.ConnectionStartOk(properties, mechanism, response, "en_US"),
        spec.ConnectionTuneOk(2047, 131072, heartbeat),
        spec.ConnectionOpen(vhost),
    )


HANDSHAKE = handshake()


class RawClient(Protocol):
    """
    A client.

    :ivar data: what has come and was not looked at yet.
    :ivar received: how many octets have come.
    :ivar ended: how the connection ended, or None.
    """

    def __init__(self) -> None:
        self.data = b""
        self.received = 0
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """
        Twisted: bytes came.
        """
        self.data += data
        self.received += len(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Twisted: that was it.
        """
        self.ended = reason

    def write(self, data: bytes) -> None:
        """
        Say anything.
        """
        assert self.transport is not None
        self.transport.write(data)

    def say(self, channel: int, *methods: Method) -> None:
        """
        Say methods.
        """
        self.write(frames(channel, *methods))

    def hang_up(self) -> None:
        """
        Close the socket.
        """
        if self.transport is not None and self.ended is None:
            self.transport.loseConnection()

    def heard(self) -> list[Method]:
        """
        The methods that have come, each whole, since the last time.
        """
        found = []
        while len(self.data) >= FRAME_OVERHEAD:
            kind, _, size = unpack_from(">BHI", self.data)
            if len(self.data) < size + FRAME_OVERHEAD:
                break
            payload = self.data[7 : size + 7]
            self.data = self.data[size + FRAME_OVERHEAD :]
            if kind == spec.FRAME_METHOD:
                found.append(decode_method(payload))
        return found

    def heard_one(self, kind: type[M]) -> M:
        """
        The one method of a kind that has come.
        """
        [method] = [each for each in self.heard() if isinstance(each, kind)]
        return method
