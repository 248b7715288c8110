# -*- test-case-name: txamqp091.test.promises.test_silence -*-
"""
Criterion 9: no peer can keep a client in the handshake for longer than the time
limit, whatever it says or does not say.

Each script is a peer that never opens the connection.  For each, the time passes in
small steps, and at the latest when the limit is reached all who wait have been told
why, by a type and a text, and the transport has gone.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091 import errors
from txamqp091.credentials import PlainCredentials
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT, method_frame

LIMIT = 10.0
STEP = 0.25

#: Does what it does at a moment, counted in steps.
Script = Callable[[Peer, int], None]


@implementer(ICredentials)
class NeverThere:
    """
    Credentials that wait for a token for ever.
    """

    mechanism = "PLAIN"

    def respond(self, challenge: bytes | None) -> Deferred[bytes]:
        return Deferred()


def at_first(act: Callable[[Peer], object]) -> Script:
    """
    A script that does one thing, and nothing after that.
    """

    def script(peer: Peer, step: int) -> None:
        if step == 0:
            act(peer)

    return script


def start() -> bytes:
    """
    The broker's introduction.
    """
    return method_frame(0, spec.ConnectionStart(0, 9).encode())


def up_to_open(peer: Peer) -> None:
    """
    All but the last word.
    """
    peer.log_in()
    peer.tune()


def drip(peer: Peer, step: int) -> None:
    """
    A byte at a time, of a beginning that would be fine.
    """
    peer.feed(start()[step : step + 1])


def drip_open(peer: Peer, step: int) -> None:
    """
    All but the last word, and of that a byte at a time.
    """
    if step == 0:
        up_to_open(peer)
    peer.feed(method_frame(0, spec.ConnectionOpenOk().encode())[:-1][step : step + 1])


def heartbeats_after_tune(peer: Peer, step: int) -> None:
    """
    A peer that is alive, and never comes to the point.
    """
    if step == 0:
        up_to_open(peer)
    peer.feed(HEARTBEAT)


def endless_challenges(peer: Peer, step: int) -> None:
    """
    A peer that asks for more every time.
    """
    if step == 0:
        peer.log_in(b"ROUNDS")
    peer.send(0, spec.ConnectionSecure(b"%d" % step))


@implementer(ICredentials)
class Rounds:
    """
    Credentials that never tire.
    """

    mechanism = "ROUNDS"

    def respond(self, challenge: bytes | None) -> bytes:
        return challenge or b""


def plain() -> ICredentials:
    """
    What most people log in by.
    """
    return PlainCredentials("guest", "guest")


TIMEOUT = errors.HandshakeTimeout
LOST = errors.ConnectionLost

#: What happens, what the client logs in by, and what that is called in the end.
SCRIPTS: dict[str, tuple[Script, Callable[[], ICredentials], type[Exception]]] = {
    "silent": (at_first(lambda peer: None), plain, TIMEOUT),
    "half a frame": (at_first(lambda peer: peer.feed(start()[:40])), plain, TIMEOUT),
    "half a head": (at_first(lambda peer: peer.feed(start()[:3])), plain, TIMEOUT),
    "a byte at a time": (drip, plain, TIMEOUT),
    "heartbeats only": (lambda peer, _: peer.heartbeat(), plain, TIMEOUT),
    "start, then silence": (at_first(lambda peer: peer.start()), plain, TIMEOUT),
    "tune, then silence": (at_first(up_to_open), plain, TIMEOUT),
    "tune, then heartbeats": (heartbeats_after_tune, plain, TIMEOUT),
    "open-ok, a byte at a time": (drip_open, plain, TIMEOUT),
    "secure without end": (endless_challenges, Rounds, TIMEOUT),
    "start, and no credentials": (
        at_first(lambda peer: peer.start()),
        NeverThere,
        TIMEOUT,
    ),
    "start in the last moment": (
        lambda peer, step: peer.start() if step == 39 else None,
        plain,
        TIMEOUT,
    ),
    "SSH": (
        at_first(lambda peer: peer.feed(b"SSH-2.0-OpenSSH_9.2\r\n")),
        plain,
        errors.FrameError,
    ),
    "HTTP": (
        at_first(lambda peer: peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        plain,
        errors.FrameError,
    ),
    "TLS": (
        at_first(lambda peer: peer.feed(b"\x15\x03\x03\x00\x02\x02\x28")),
        plain,
        errors.FrameError,
    ),
    "SMTP": (
        at_first(lambda peer: peer.feed(b"220 mail.example ESMTP\r\n")),
        plain,
        errors.FrameError,
    ),
    "AMQP 1.0": (
        at_first(lambda peer: peer.feed(b"AMQP\0\1\0\0")),
        plain,
        errors.ProtocolVersionMismatch,
    ),
    "a frame of 2 GiB": (
        at_first(lambda peer: peer.feed(b"\1\0\0\x7f\xff\xff\xff")),
        plain,
        errors.FrameError,
    ),
    "closes at once": (
        at_first(lambda peer: peer.transport.drop(ConnectionDone())),
        plain,
        LOST,
    ),
    "resets in the middle": (
        lambda peer, step: (
            peer.start() if step == 0 else peer.transport.drop(ConnectionLost())
        ),
        plain,
        LOST,
    ),
    "closes after half a frame": (
        lambda peer, step: (
            peer.feed(start()[:40])
            if step == 0
            else peer.transport.drop(ConnectionDone())
        ),
        plain,
        LOST,
    ),
    "refuses": (
        lambda peer, step: (
            peer.start()
            if step == 0
            else peer.send(0, spec.ConnectionClose(403, "ACCESS_REFUSED"))
        ),
        plain,
        errors.AuthenticationFailed,
    ),
    "start, again and again": (
        lambda peer, _: peer.start(),
        plain,
        errors.CommandInvalid,
    ),
    "close before start": (
        at_first(lambda peer: peer.send(0, spec.ConnectionClose(320, "no"))),
        plain,
        errors.CommandInvalid,
    ),
}


class SilenceTests(SynchronousTestCase):
    """
    The scripts, all of them.
    """

    def play(
        self, script: Script, credentials: ICredentials, kind: type[Exception]
    ) -> float:
        """
        Let a script run against a new connection.

        :returns: after how many seconds the connection was over.
        """
        peer = Peer(
            self,
            ConnectionParameters(
                handshake_timeout=LIMIT, credentials=[credentials], host="rabbit"
            ),
        )
        fired: list[object] = []
        # Each that waits is called once, or it would raise.
        for _ in range(2):
            opening: Deferred[AMQPProtocol] = peer.client.when_open()
            opening.addBoth(fired.append)
            closed: Deferred[None] = peer.client.when_closed()
            closed.addBoth(fired.append)
        for step in range(int(LIMIT / STEP) + 1):
            if not peer.transport.connected:
                break
            script(peer, step)
            peer.clock.advance(STEP)
        self.assertFalse(peer.transport.connected)
        self.assertEqual(len(fired), 4)
        error = self.failureResultOf(peer.client.when_closed(), kind).value
        self.assertIs(type(error), kind)
        self.assertGreater(len(str(error)), 15)
        for each in fired:
            self.assertIs(each.value, error)  # type: ignore[attr-defined]
        self.assertEqual(peer.clock.getDelayedCalls(), [])
        return peer.clock.seconds()

    def test_scripts(self) -> None:
        """
        At least 16 of 16 end with a typed reason, within the limit (criterion 9).
        """
        self.assertGreaterEqual(len(SCRIPTS), 16)
        for name, (script, credentials, kind) in SCRIPTS.items():
            seconds = self.play(script, credentials(), kind)
            self.assertLessEqual(seconds, LIMIT, name)
            if kind is TIMEOUT:
                self.assertEqual(seconds, LIMIT, name)
            else:
                self.assertLessEqual(seconds, 2 * STEP, name)

    def test_words(self) -> None:
        """
        The error says who it was about, how long it took, and at which stage.
        """
        for name, words in (
            ("silent", "before the peer said anything"),
            ("start, then silence", "are the user name and password right?"),
            ("tune, then silence", "while opening the virtual host"),
            ("start, and no credentials", "while the credentials were being fetched"),
        ):
            script, credentials, _ = SCRIPTS[name]
            peer = Peer(
                self,
                ConnectionParameters(
                    handshake_timeout=3, credentials=[credentials()], host="rabbit"
                ),
            )
            script(peer, 0)
            opening = peer.client.when_open()
            peer.clock.advance(2.9)
            self.assertNoResult(opening)
            peer.clock.advance(0.2)
            error = self.failureResultOf(opening, TIMEOUT).value
            self.assertIn("rabbit was not open within 3 s", str(error))
            self.assertIn(words, str(error))
            self.assertTrue(error.retriable)
            self.assertEqual(peer.transport.ended, "aborted")

    def test_in_time(self) -> None:
        """
        A handshake that is over in the last moment is as good as any, and the limit
        is over with it.
        """
        peer = Peer(self, ConnectionParameters(handshake_timeout=LIMIT, heartbeat=0))
        peer.clock.advance(LIMIT - 0.1)
        peer.handshake(heartbeat=0)
        peer.clock.advance(LIMIT)
        self.assertTrue(peer.client.is_open)
        self.assertEqual(peer.clock.getDelayedCalls(), [])
