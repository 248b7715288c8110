"""
A connection without a network, a broker or a kernel: what is left is our own code.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.channel import Channel
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer, Transport
from txamqp091.wire import spec
from txamqp091.wire.frames import method_frame
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties

__all__ = ["Inside", "clock"]


class _Deaf(Transport):
    """
    Forgets what is written, once it is told so.
    """

    deaf = False

    def write(self, data: bytes) -> None:
        """
        See the base class.
        """
        if not self.deaf:
            super().write(data)


class Inside:
    """
    An open connection and its peer, by hand.

    :ivar client: the connection.
    """

    def __init__(self, channel_max: int = 65535) -> None:
        parameters = ConnectionParameters(channel_max=channel_max)
        self._peer = Peer(
            SynchronousTestCase(), parameters, transport=_Deaf, cleanup=False
        )
        self._peer.handshake(channel_max=channel_max, heartbeat=0)
        self.client = self._peer.client
        self.turn = self._peer.turn
        self.receive = self.client.dataReceived

    def open_channel(self) -> Channel:
        """
        Open a channel.
        """
        return self._peer.open_channel()

    def serve(self) -> None:
        """
        Agree with all that the client has asked for.
        """
        self._peer.serve()

    def ignore(self) -> None:
        """
        Forget what the client says from now on.
        """
        self._peer.listen()
        self._peer.transport.deaf = True  # type: ignore[attr-defined]

    def content(
        self,
        channel: int,
        method: Method,
        body: bytes,
        properties: Properties = EMPTY,
    ) -> bytes:
        """
        The frames of a message.
        """
        return self._peer.content(channel, method, body, properties)

    def deliveries(
        self,
        count: int,
        body: bytes,
        tags: list[str],
        channels: list[int],
        properties: Properties = EMPTY,
        first: int = 1,
    ) -> bytes:
        """
        Messages, for each consumer tag and each channel in turn.
        """
        return b"".join(
            self.content(
                channels[number % len(channels)],
                spec.BasicDeliver(
                    tags[number % len(tags)], first + number, False, "", "work"
                ),
                body,
                properties,
            )
            for number in range(count)
        )


def frame(channel: int, method: Method) -> bytes:
    """
    A method, in its frame.
    """
    return method_frame(channel, method.encode())


def clock(work: Callable[[], object], count: int) -> float:
    """
    The processor time of some work, in nanoseconds for each of ``count``.
    """
    gc.collect()
    begin = time.process_time_ns()
    work()
    return (time.process_time_ns() - begin) / count
