# -*- test-case-name: txamqp091.test.support.test_chaos -*-
"""
Tests for the network and the broker that misbehave on demand: the proxy in front of
a server that echoes, the scripted broker with a client by hand.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.test.support.certificates import Authority
from txamqp091.test.support.chaos import ChaosProxy, Cut, Direction, Frame, Framer, Link
from txamqp091.test.support.processes import HOST
from txamqp091.test.support.scripted import FrameSocket, Peer, ScriptedBroker
from txamqp091.wire.frames import HEARTBEAT, method_frame
from txamqp091.wire.method import decode_method
from txamqp091.wire.spec import (
    PROTOCOL_HEADER,
    BasicConsume,
    BasicConsumeOk,
    BasicDeliver,
    ChannelOpen,
    ConnectionOpen,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
)

DELIVER = method_frame(1, BasicDeliver("tag", 1).encode())


class EchoServer:
    """
    Sends back whatever it gets, to one client after another.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Listen no more.
        """
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                try:
                    while data := sock.recv(65536):
                        sock.sendall(data)
                except OSError:
                    pass


class FramerTests(SynchronousTestCase):
    """
    Tests for `Framer`.
    """

    def test_any_split(self) -> None:
        """
        The frames do not depend on how the stream was cut, and keep their faults.
        """
        wrong = Frame(77, 2, b"x", end=0)
        stream = PROTOCOL_HEADER + DELIVER + wrong.encode()
        expected = [PROTOCOL_HEADER, Frame(1, 1, DELIVER[7:-1]), wrong]
        for size in range(1, len(stream) + 1):
            framer = Framer()
            units: list[Frame | bytes] = []
            for start in range(0, len(stream), size):
                units += framer.feed(stream[start : start + size])
            self.assertEqual(units, expected)


class ChaosProxyTests(SynchronousTestCase):
    """
    Tests for `ChaosProxy`.
    """

    def setUp(self) -> None:
        """
        Have a server to stand in front of.
        """
        server = EchoServer()
        self.addCleanup(server.stop)
        self.server = server

    def start(self, proxy: ChaosProxy) -> ChaosProxy:
        """
        Start a proxy for the time of the test.
        """
        proxy.start()
        self.addCleanup(proxy.stop)
        return proxy

    def connect(self, proxy: ChaosProxy) -> socket.socket:
        """
        A connection through the proxy, that has been seen to work.
        """
        sock = socket.create_connection((HOST, proxy.port), 60)
        self.addCleanup(sock.close)
        sock.sendall(PROTOCOL_HEADER)
        self.assertEqual(sock.recv(100), PROTOCOL_HEADER)
        return sock

    def test_hole(self) -> None:
        """
        In a hole nothing arrives and nothing is closed; afterwards everything
        arrives.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        sock = self.connect(proxy)
        proxy.hole(Direction.DOWN)
        sock.sendall(b"lost?")
        sock.settimeout(0.1)
        self.assertRaises(TimeoutError, sock.recv, 100)
        proxy.heal()
        sock.settimeout(60)
        self.assertEqual(sock.recv(100), b"lost?")

    def test_reset(self) -> None:
        """
        A reset is one, for the client.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        sock = self.connect(proxy)
        proxy.reset()
        self.assertRaises(ConnectionResetError, sock.recv, 100)

    def test_close(self) -> None:
        """
        A close is an orderly one.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        sock = self.connect(proxy)
        proxy.close()
        self.assertEqual(sock.recv(100), b"")

    def test_refuse(self) -> None:
        """
        A proxy that refuses is not there; then it is, on the same port.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        proxy.refuse()
        self.assertRaises(ConnectionRefusedError, self.connect, proxy)
        proxy.accept()
        self.connect(proxy)
        self.assertEqual(proxy.accepted, 1)

    def test_slow(self) -> None:
        """
        Traffic is limited to so many bytes per second.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        sock = self.connect(proxy)
        proxy.slow(down=1000)
        started = time.monotonic()
        sock.sendall(bytes(200))
        received = 0
        while received < 200:
            received += len(sock.recv(200))
        self.assertGreater(time.monotonic() - started, 0.15)

    def test_inject(self) -> None:
        """
        Bytes of the test's own get into the stream.
        """
        proxy = self.start(ChaosProxy(self.server.port))
        sock = self.connect(proxy)
        proxy.inject(b"surprise")
        self.assertEqual(sock.recv(100), b"surprise")

    def test_cut_inside_a_frame(self) -> None:
        """
        A hook ends the connection inside a frame: the client gets the half, and
        then the reset.
        """

        def half(unit: Frame | bytes, direction: Direction, link: Link) -> Cut | None:
            if direction is Direction.UP or not isinstance(unit, Frame):
                return None
            return Cut(unit.encode()[:9]) if unit.method is BasicDeliver else None

        sock = self.connect(self.start(ChaosProxy(self.server.port, on_frame=half)))
        sock.sendall(DELIVER)
        self.assertEqual(sock.recv(100), DELIVER[:9])
        self.assertRaises(ConnectionResetError, sock.recv, 100)

    def test_change_frames(self) -> None:
        """
        A hook puts other bytes in the place of a frame.
        """

        def spoil(
            unit: Frame | bytes, direction: Direction, link: Link
        ) -> bytes | None:
            if direction is Direction.UP or not isinstance(unit, Frame):
                return None
            return unit._replace(end=0).encode()

        sock = self.connect(self.start(ChaosProxy(self.server.port, on_frame=spoil)))
        sock.sendall(HEARTBEAT)
        self.assertEqual(sock.recv(100), HEARTBEAT[:-1] + b"\0")

    def test_tls(self) -> None:
        """
        A proxy puts a certificate in front of a server that has none.
        """
        authority = Authority()
        folder = Path(self.mktemp())
        folder.mkdir()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("localhost").write(folder, "server"))
        proxy = self.start(ChaosProxy(self.server.port, tls=context))
        client = ssl.create_default_context(cadata=authority.certificate.decode())
        with socket.create_connection((HOST, proxy.port), 60) as raw:
            with client.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(b"secret")
                self.assertEqual(sock.recv(100), b"secret")


class ScriptedBrokerTests(SynchronousTestCase):
    """
    Tests for `ScriptedBroker`.
    """

    def test_conversation(self) -> None:
        """
        A script leads a client through the handshake to a delivery, and learns how
        the client left.
        """

        def script(peer: Peer) -> str:
            peer.handshake()
            frame = peer.serve_until(BasicConsume)
            peer.deliver(b"hello", channel=frame.channel)
            return peer.drain()

        with ScriptedBroker(script) as broker:
            with socket.create_connection((HOST, broker.port), 60) as sock:
                client = FrameSocket(sock)
                client.send(PROTOCOL_HEADER)
                client.read_frame(ConnectionStart)
                client.send_method(ConnectionStartOk())
                client.read_frame(ConnectionTune)
                client.send_method(ConnectionTuneOk())
                client.ask(ConnectionOpen())
                client.ask(ChannelOpen(), 3)
                consumed = client.ask(BasicConsume(queue="q", consumer_tag="mine"), 3)
                delivery = client.read_frame(BasicDeliver)
                client.read()
                body = client.read()
        self.assertEqual(consumed, BasicConsumeOk("mine"))
        self.assertEqual(
            decode_method(delivery.payload), BasicDeliver("mine", 1, routing_key="key")
        )
        self.assertEqual(body, Frame(3, 3, b"hello"))
        self.assertEqual(broker.outcomes, ["the peer closed the connection"])
        self.assertEqual(broker.accepted, 1)

    def test_failing_script(self) -> None:
        """
        How a script failed is its outcome; a script that waits for its client does
        not keep the broker from stopping.
        """

        def script(peer: Peer) -> None:
            peer.start()
            peer.serve_until(BasicConsume)

        with ScriptedBroker(script) as broker:
            with socket.create_connection((HOST, broker.port), 60) as sock:
                client = FrameSocket(sock)
                client.send(PROTOCOL_HEADER)
                client.read_frame(ConnectionStart)
                broker.stop()
        [outcome] = broker.outcomes
        self.assertIsInstance(outcome, EOFError)
