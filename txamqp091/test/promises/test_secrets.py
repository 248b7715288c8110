# -*- test-case-name: txamqp091.test.promises.test_secrets -*-
"""
What nobody gets to see: passwords and tokens (criterion 28).

A canary is put wherever a secret goes, and looked for in all that can be printed: the
repr and str of every object of ours that can be reached, the log, and every failure,
with the variables of its stack.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from traceback import walk_tb
from typing import Any

from twisted.internet.defer import Deferred, getDebugging, setDebugging, succeed
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091 import errors
from txamqp091.credentials import AMQPlainCredentials, PlainCredentials
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer
from txamqp091.test.unit.client.test_credentials import verbose
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

PASSWORD = "canary-hunter2"
TOKEN = "canary-token"
CHALLENGE = b"canary-challenge"
BIRD = "canary"


def reachable(start: object) -> Iterator[object]:
    """
    All objects of ours that can be reached from one, private ones too.
    """
    seen: set[int] = set()
    left = [start]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, str | bytes | int | type):
            continue
        seen.add(id(each))
        if type(each).__module__.startswith("txamqp091"):
            if not type(each).__module__.startswith("txamqp091.test"):
                yield each
        elif not isinstance(each, dict | list | tuple | set | BaseException):
            if not hasattr(each, "__self__"):  # a bound method leads on
                continue
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list | tuple | set):
            left += each
        else:
            left += gc.get_referents(each)


def on_the_stack(error: BaseException | None) -> Iterator[str]:
    """
    The variables of our functions, where an error has come by, or one before it.
    """
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            if "txamqp091/test/" not in frame.f_code.co_filename:
                yield f"{frame.f_code.co_qualname} {frame.f_locals!r}"
        error = error.__context__


@implementer(ICredentials)
class TokenCredentials:
    """
    A token, and an answer to any challenge; or a failure that knows too much.
    """

    mechanism = "TOKEN"

    def __init__(self, outcome: object = None) -> None:
        self._outcome = outcome

    def respond(self, challenge: bytes | None) -> bytes | Deferred[bytes]:
        if challenge is not None and isinstance(self._outcome, Exception):
            raise self._outcome
        return succeed(TOKEN.encode())


class CanaryTestCase(SynchronousTestCase):
    """
    Collects all that is said in the course of a test, with Twisted's debugging on:
    failures keep the variables of their stack then.
    """

    def setUp(self) -> None:
        self.addCleanup(setDebugging, getDebugging())
        setDebugging(True)
        self.failures: list[Failure] = []
        self.events: Sequence[LogEvent] = self.enterContext(capturedLogs())

    def watch(self, deferred: Deferred[Any]) -> None:
        """
        Keep what it may fail with.
        """
        deferred.addErrback(self.failures.append)

    def meet(self, credentials: ICredentials, **parameters: Any) -> Peer:
        """
        A connection that logs in with a canary.
        """
        self.parameters = ConnectionParameters(credentials=[credentials], **parameters)
        peer = Peer(self, self.parameters, address="192.0.2.1")
        self.watch(peer.client.when_open())
        self.watch(peer.client.when_closed())
        return peer

    def said(self, peer: Peer) -> Iterator[str]:
        """
        All that can be read by now.
        """
        for each in (peer.client, peer.client.factory, self.parameters, *peer.said):
            for one in reachable(each):
                yield f"{one!r} {one}"
        for failure in self.failures:
            yield verbose(failure)
            yield failure.getBriefTraceback()
            yield from on_the_stack(failure.value)
            yield from map(repr, reachable(failure.value))
        for event in self.events:
            yield str(formatEvent(event))
            if "log_failure" in event:
                yield verbose(event["log_failure"])
            yield from (repr(each) for each in event.values())

    def check(self, peer: Peer) -> None:
        """
        No canary sings, now or when the connection is gone.
        """
        for _ in range(2):
            for text in self.said(peer):
                self.assertNotIn(BIRD, text)
            peer.drop()


class SecretTests(CanaryTestCase):
    """
    Where the secrets are not.
    """

    def test_the_test(self) -> None:
        """
        The net has no holes: objects with secrets are found, and what does not
        hide them would be seen.
        """
        credentials = PlainCredentials("me", PASSWORD)
        peer = self.meet(credentials)
        found = list(reachable(peer.client))
        for each in (credentials, self.parameters, peer.client._machine):
            self.assertTrue(any(one is each for one in found), repr(each))

        def leak(secret: str) -> None:
            raise errors.LocalProtocolError("no")

        try:
            leak(PASSWORD)
        except errors.LocalProtocolError as error:
            failure = Failure(error, captureVars=True)
            (frame,) = [each for each, _ in walk_tb(error.__traceback__)][1:]
        self.assertIn(BIRD, repr(failure.frames))
        self.assertIn(BIRD, repr(frame.f_locals))
        self.check(peer)

    def test_success(self) -> None:
        """
        Not in a handshake that goes well, with any of the mechanisms, at any stage.
        """
        for credentials, offered in (
            (PlainCredentials("me", PASSWORD), b"PLAIN"),
            (AMQPlainCredentials("me", PASSWORD), b"AMQPLAIN"),
            (TokenCredentials(), b"TOKEN"),
        ):
            peer = self.meet(credentials)
            self.check_without_drop(peer)
            said = peer.log_in(offered)
            self.assertIn(BIRD.encode(), said.response)
            self.assertNotIn(BIRD, repr(said) + str(said))
            self.check_without_drop(peer)
            if offered == b"TOKEN":
                secure = spec.ConnectionSecure(CHALLENGE)
                self.assertNotIn(BIRD, repr(secure))
                peer.send(0, secure)
                self.assertNotIn(BIRD, repr(peer.listen()))
                peer.expect(spec.ConnectionSecureOk)
            peer.tune()
            peer.send(0, spec.ConnectionOpenOk())
            self.check(peer)

    def check_without_drop(self, peer: Peer) -> None:
        """
        No canary sings now.
        """
        for text in self.said(peer):
            self.assertNotIn(BIRD, text)

    def test_refused(self) -> None:
        """
        Not when the broker refuses them, goes, breaks the rules, or falls silent.
        """
        ends: list[Callable[[Peer], object]] = [
            lambda peer: peer.send(0, spec.ConnectionClose(403, "ACCESS_REFUSED")),
            lambda peer: peer.drop(),
            lambda peer: peer.feed(b"garbage!"),
            lambda peer: peer.send(0, spec.ConnectionSecure(CHALLENGE)),
            lambda peer: peer.send(0, spec.ConnectionOpenOk()),
            lambda peer: peer.send(0, spec.ConnectionTune(0, 1, 0)),
            lambda peer: peer.clock.advance(10),
            lambda peer: peer.client.close(),
        ]
        for end in ends:
            for mechanism in (PlainCredentials, AMQPlainCredentials):
                peer = self.meet(mechanism("me", PASSWORD))
                peer.log_in()
                end(peer)
                peer.turn()
                self.assertTrue(self.failures)
                self.check(peer)

    def test_not_offered(self) -> None:
        """
        Not when there is no mechanism for them.
        """
        peer = self.meet(PlainCredentials("me", PASSWORD))
        peer.start(b"EXTERNAL")
        self.assertIn("MechanismNotOffered", repr(self.failures))
        self.check(peer)

    def test_not_encoded(self) -> None:
        """
        Not when what goes with them cannot be encoded: the stack of that error has
        had them on it.
        """
        for credentials in (PlainCredentials("me", PASSWORD), TokenCredentials()):
            peer = self.meet(credentials, client_properties={"x": float("nan")})
            peer.start(b"PLAIN TOKEN")
            self.assertIn("EncodeError", repr(self.failures))
            self.check(peer)

    def test_challenge(self) -> None:
        """
        Not when the credentials fail to answer a challenge.
        """
        for outcome in (errors.CommandInvalid("no"), ValueError(TOKEN)):
            peer = self.meet(TokenCredentials(outcome))
            peer.log_in(b"TOKEN")
            peer.send(0, spec.ConnectionSecure(CHALLENGE))
            peer.turn()
            self.assertFalse(peer.transport.connected)
            # The cause is the user's own error, and says what it says.
            self.assertEqual(
                [BIRD in str(each.value) for each in self.failures], [False] * 2
            )
            for each in self.failures:
                assert each.value is not None
                each.value.__cause__ = None
            self.check(peer)
            self.failures.clear()

    def test_update_secret(self) -> None:
        """
        Not when a token is replaced, be it taken, refused, or not even sent.
        """
        for secret, reason in (
            (TOKEN, ""),
            (TOKEN, "x" * 256),
            (TOKEN + "\ud800", ""),
            ([TOKEN], ""),
        ):
            peer = self.meet(PlainCredentials("me", PASSWORD))
            self.watch(peer.client.update_secret(secret, reason))  # type: ignore[arg-type]
            peer.handshake()
            self.watch(peer.client.update_secret(secret, reason))  # type: ignore[arg-type]
            for said in peer.listen():
                self.assertNotIn(BIRD, repr(said))
            peer.send(0, spec.ConnectionClose(530, "NOT_ALLOWED", 10, 70))
            self.watch(peer.client.update_secret(secret, reason))  # type: ignore[arg-type]
            peer.turn()
            self.assertEqual(len(self.failures), 4)
            self.check(peer)
            self.failures.clear()

    def test_messages(self) -> None:
        """
        Nor are the bodies of messages in the log, or kept by an error.
        """
        peer = self.meet(PlainCredentials("me", PASSWORD))
        peer.handshake()
        channel = peer.open_channel()

        def fail(_: object) -> None:
            raise ValueError("a handler's own")

        self.watch(channel.basic_consume("work", fail, consumer_tag="c"))
        self.watch(channel.basic_publish("", "work", BIRD, mandatory=True))
        channel.observe_returns(fail)
        peer.serve()
        deliver = spec.BasicDeliver("c", 1, False, "", "work")
        back = spec.BasicReturn(312, "NO_ROUTE", "", "work")
        properties = Properties(headers={"x": BIRD})
        peer.feed(
            peer.content(1, deliver, BIRD.encode(), properties)
            + peer.content(1, back, BIRD.encode(), properties)
            + b"\1\0\1\0\0\0\4\0\x63\0\1\xce"
        )
        peer.turn()
        self.assertIn("MethodNotImplemented", repr(self.failures))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.check_log_only()

    def check_log_only(self) -> None:
        """
        No canary sings in the log, but for the variables of the user's functions.
        """
        for event in self.events:
            self.assertNotIn(BIRD, str(formatEvent(event)))
        for failure in self.failures:
            for text in (verbose(failure), *on_the_stack(failure.value)):
                self.assertNotIn(BIRD, text)
