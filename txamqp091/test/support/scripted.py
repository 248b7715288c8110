# -*- test-case-name: txamqp091.test.support.test_chaos -*-
"""
A broker that follows a script, over real sockets.

`ScriptedBroker` speaks as much AMQP as it takes to get a client to any point of a
conversation, where it does whatever the test wants::

    def script(peer: Peer) -> str:
        peer.handshake()
        peer.serve_until(BasicConsume)
        peer.send(b"garbage")
        return peer.drain()

    with ScriptedBroker(script) as broker:
        connect(broker.port)

It works in threads of its own, and blocks them.  Tests that need no real socket use
an in-memory peer.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

from txamqp091.test.support.chaos import Frame, Framer, reset_on_close
from txamqp091.test.support.processes import HOST
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.method import Method, decode_method
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.spec import (
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    BasicGet,
    BasicGetEmpty,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    QueueDeclare,
    QueueDeclareOk,
)
from txamqp091.wire.types import FieldValue

__all__ = ["FrameSocket", "Peer", "ScriptedBroker", "answer"]

#: What RabbitMQ says it can do.
CAPABILITIES: dict[str, FieldValue] = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "consumer_priorities": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "direct_reply_to": True,
}


def answer(question: Method) -> Method | None:
    """
    What a broker says that agrees with everything; `None` if it says nothing.
    """
    if getattr(question, "no_wait", False) or not question.replies:
        return None
    if isinstance(question, QueueDeclare):
        return QueueDeclareOk(question.queue or "amq.gen-1")
    if isinstance(question, BasicConsume):
        return BasicConsumeOk(question.consumer_tag or "amq.ctag-1")
    if isinstance(question, BasicCancel):
        return BasicCancelOk(question.consumer_tag)
    if isinstance(question, BasicGet):
        return BasicGetEmpty()
    return question.replies[0]()


class FrameSocket:
    """
    A blocking socket on which frames come and go.

    :ivar received: the frames that came so far.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received: list[Frame] = []
        self._framer = Framer()
        self._units: list[Frame | bytes] = []

    def send(self, *data: bytes) -> None:
        """
        Send bytes.
        """
        self.sock.sendall(b"".join(data))

    def send_method(self, method: Method, channel: int = 0) -> None:
        """
        Send a method frame.
        """
        self.send(method_frame(channel, method.encode()))

    def read(self, timeout: float = 60.0) -> Frame | bytes:
        """
        The next frame, or protocol header.

        :raises EOFError: the other side has gone.
        """
        self.sock.settimeout(timeout)
        while not self._units:
            try:
                data = self.sock.recv(65536)
            except ConnectionError as error:
                raise EOFError(f"the peer reset the connection: {error}") from error
            if not data:
                raise EOFError("the peer closed the connection")
            self._units.extend(self._framer.feed(data))
        unit = self._units.pop(0)
        if isinstance(unit, Frame):
            self.received.append(unit)
        return unit

    def read_frame(self, *kinds: type[Method]) -> Frame:
        """
        The next frame that carries one of these methods; others are skipped.
        """
        while True:
            unit = self.read()
            if isinstance(unit, Frame) and unit.method in kinds:
                return unit

    def ask(self, question: Method, channel: int = 0) -> Method:
        """
        Send a method, and return the one that answers it.
        """
        self.send_method(question, channel)
        return decode_method(self.read_frame(*question.replies).payload)

    def drain(self, seconds: float = 60.0) -> str:
        """
        Read on for a while, and tell how it ended.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                try:
                    self.read(left)
                except EOFError as error:
                    return str(error)
        return "the peer stayed connected"

    def reset(self) -> None:
        """
        End the connection with a TCP reset.
        """
        reset_on_close(self.sock)
        self.sock.close()


class Peer(FrameSocket):
    """
    The client, as a script sees it.
    """

    def start(
        self,
        mechanisms: bytes = b"PLAIN AMQPLAIN",
        version: tuple[int, int] = (0, 9),
        locales: bytes = b"en_US",
    ) -> None:
        """
        Take the protocol header, and begin.
        """
        self.read()
        properties: dict[str, FieldValue] = {
            "capabilities": CAPABILITIES,
            "product": "a scripted broker",
            "version": "4.3.0",
        }
        self.send_method(ConnectionStart(*version, properties, mechanisms, locales))

    def handshake(
        self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 60
    ) -> None:
        """
        Go through a whole handshake.
        """
        self.start()
        self.read_frame(ConnectionStartOk)
        self.send_method(ConnectionTune(channel_max, frame_max, heartbeat))
        self.read_frame(ConnectionOpen)
        self.send_method(ConnectionOpenOk())

    def serve_until(self, *kinds: type[Method]) -> Frame:
        """
        Answer everything, up to and including one of these methods.
        """
        while True:
            frame = self.read()
            if not isinstance(frame, Frame) or frame.method is None:
                continue
            reply = answer(decode_method(frame.payload))
            if reply is not None:
                self.send_method(reply, frame.channel)
            if frame.method in kinds:
                return frame

    def deliver(
        self,
        body: bytes = b"",
        *,
        channel: int = 1,
        delivery_tag: int = 1,
        consumer_tag: str | None = None,
        routing_key: str = "key",
        properties: Properties = EMPTY,
    ) -> None:
        """
        Deliver a message.

        :param consumer_tag: by default, that of the last consumer.
        """
        if consumer_tag is None:
            consumer_tag = self.consumer_tag()
        method = BasicDeliver(consumer_tag, delivery_tag, routing_key=routing_key)
        frame = method_frame(channel, method.encode())
        pieces = content_frames(channel, frame, properties.encode(), body, 131064)
        self.send(b"".join(pieces))

    def consumer_tag(self) -> str:
        """
        The tag of the consumer that the client last asked for.
        """
        frame = [each for each in self.received if each.method is BasicConsume][-1]
        return BasicConsume.decode(frame.payload).consumer_tag or "amq.ctag-1"


class ScriptedBroker:
    """
    A server that plays a script to each client.

    :ivar port: where clients connect to.
    :ivar accepted: how many connections there were.
    :ivar outcomes: what the scripts returned, or how they failed.
    """

    def __init__(
        self, script: Callable[[Peer], object], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.accepted = 0
        self.outcomes: list[object] = []
        self._script = script
        self._tls = tls
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """
        Accept clients.
        """
        self._spawn(self._accept_all)

    def stop(self) -> None:
        """
        End every connection, and wait for the scripts to notice.
        """
        accepting = self._threads[0]
        # To close alone would leave the other threads waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def __enter__(self) -> ScriptedBroker:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept_all(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            # Small answers leave at once: they would wait for each other's ACK, 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            self.accepted += 1
            self._sockets.append(sock)
            self._spawn(self._play, sock)

    def _play(self, sock: socket.socket) -> None:
        outcome: object
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                self._sockets.append(sock)
                sock.do_handshake()
            outcome = self._script(Peer(sock))
        except Exception as error:
            outcome = error
        finally:
            sock.close()
        self.outcomes.append(outcome)
