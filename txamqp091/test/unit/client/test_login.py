# -*- test-case-name: txamqp091.test.unit.client.test_login -*-
"""
Tests for `txamqp091._login`: credentials that take their time, fail, or answer
challenges; and the warning before a password goes over the network in the clear.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091 import errors
from txamqp091._login import Login
from txamqp091.credentials import AMQPlainCredentials, ExternalCredentials
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec


@implementer(ICredentials)
class Scripted:
    """
    Credentials that do what the test says, and note what they were asked.
    """

    def __init__(
        self, respond: Callable[[bytes | None], object], mechanism: str = "SCRIPTED"
    ) -> None:
        self.mechanism = mechanism
        self.asked: list[bytes | None] = []
        self._respond = respond

    def respond(self, challenge: bytes | None) -> bytes | Deferred[bytes]:
        self.asked.append(challenge)
        return self._respond(challenge)  # type: ignore[return-value]


class LoginTestCase(SynchronousTestCase):
    """
    A peer that offers the mechanism of the tests.
    """

    def meet(self, credentials: ICredentials) -> Peer:
        """
        A connection with such credentials, up to the broker's introduction.
        """
        peer = Peer(self, ConnectionParameters(credentials=[credentials]))
        self.opening = peer.client.when_open()
        peer.start(b"PLAIN SCRIPTED")
        return peer

    def refused(self, peer: Peer, kind: type[errors.AMQPError]) -> errors.AMQPError:
        """
        The error that the login has ended with; nothing was said after the header.
        """
        peer.turn()
        self.assertFalse(peer.transport.connected)
        self.assertEqual(peer.transport.writes, [spec.PROTOCOL_HEADER])
        error = self.failureResultOf(self.opening, kind).value
        assert isinstance(error, errors.AMQPError)
        return error


class ResponseTests(LoginTestCase):
    """
    The first response.
    """

    def test_later(self) -> None:
        """
        The response may be given later: until then the client says nothing.
        """
        waiting: Deferred[bytes] = Deferred()
        peer = self.meet(Scripted(lambda _: waiting))
        self.assertEqual(peer.listen(), [])
        waiting.callback(b"token")
        said = peer.expect(spec.ConnectionStartOk)
        self.assertEqual((said.mechanism, said.response), ("SCRIPTED", b"token"))
        peer.tune()
        peer.send(0, spec.ConnectionOpenOk())
        self.assertIs(self.successResultOf(self.opening), peer.client)

    def test_coroutine(self) -> None:
        """
        It may be given by a coroutine.
        """
        waiting: Deferred[bytes] = Deferred()

        async def respond(challenge: bytes | None) -> bytes:
            return await waiting + b"!"

        peer = self.meet(Scripted(respond))
        self.assertEqual(peer.listen(), [])
        waiting.callback(b"token")
        self.assertEqual(peer.expect(spec.ConnectionStartOk).response, b"token!")
        peer.drop()
        self.failureResultOf(self.opening, errors.ConnectionLost)

    def test_asked_anew(self) -> None:
        """
        Each connection asks, so that a new password is used by the next one.
        """
        passwords = [b"old", b"new"]
        credentials = Scripted(lambda _: passwords.pop(0))
        for expected in (b"old", b"new"):
            peer = self.meet(credentials)
            self.assertEqual(peer.expect(spec.ConnectionStartOk).response, expected)
            peer.drop()
            self.failureResultOf(self.opening, errors.ConnectionLost)
        self.assertEqual(credentials.asked, [None, None])

    def test_fail(self) -> None:
        """
        Credentials that fail, at once or later, end the connection with an error
        that names them and keeps theirs as its cause, but does not repeat it.
        """
        problem = RuntimeError("the vault says hunter2")

        def at_once(_: bytes | None) -> object:
            raise problem

        waiting: Deferred[bytes] = Deferred()
        for respond in (at_once, lambda _: waiting):
            peer = self.meet(Scripted(respond))
            if respond is not at_once:
                waiting.errback(problem)
            error = self.refused(peer, errors.AuthenticationFailed)
            self.assertIn("RuntimeError from Scripted", str(error))
            self.assertNotIn("hunter2", str(error))
            self.assertIs(error.__cause__, problem)
            assert isinstance(error, errors.AuthenticationFailed)
            self.assertEqual((error.reply_code, error.by_us), (0, True))

    def test_fail_typed(self) -> None:
        """
        An error of ours is passed on as it is.
        """
        problem = errors.AuthenticationFailed("the token has expired")

        def respond(_: bytes | None) -> object:
            raise problem

        error = self.refused(self.meet(Scripted(respond)), errors.AuthenticationFailed)
        self.assertIs(error, problem)

    def test_no_bytes(self) -> None:
        """
        A response that is no bytes is refused without being shown.
        """
        for wrong in ("hunter2", None, 7, succeed("hunter2")):
            error = self.refused(
                self.meet(Scripted(lambda _, wrong=wrong: wrong)),  # type: ignore[misc]
                errors.LocalProtocolError,
            )
            self.assertIn("instead of bytes", str(error))
            self.assertNotIn("hunter2", str(error))

    def test_client_properties(self) -> None:
        """
        Client properties that cannot be sent are not taken for bad credentials.
        """
        for wrong in ({"x": float("nan")}, {"capabilities": 7}):
            peer = Peer(self, ConnectionParameters(client_properties=wrong))
            self.opening = peer.client.when_open()
            peer.start()
            error = self.refused(peer, errors.LocalProtocolError)
            self.assertNotIn("credentials", str(error))
            self.assertIsNone(error.__traceback__)


class CancelTests(LoginTestCase):
    """
    Credentials that are not needed any more.
    """

    def setUp(self) -> None:
        self.cancelled: list[object] = []
        self.waiting: Deferred[bytes] = Deferred(self.cancelled.append)

    def test_lost(self) -> None:
        """
        Their Deferred is cancelled when the connection is lost.
        """
        peer = self.meet(Scripted(lambda _: self.waiting))
        peer.drop()
        self.assertEqual(self.cancelled, [self.waiting])
        error = self.failureResultOf(self.opening, errors.ConnectionLost).value
        self.assertIn("while the credentials were being fetched", str(error))

    def test_too_slow(self) -> None:
        """
        Or takes too long, criterion 9; and the broker is not blamed for that.
        """
        peer = self.meet(Scripted(lambda _: self.waiting))
        peer.clock.advance(10)
        self.assertEqual(self.cancelled, [self.waiting])
        error = self.failureResultOf(self.opening, errors.HandshakeTimeout).value
        self.assertIn("while the credentials were being fetched", str(error))
        self.assertFalse(peer.transport.connected)

    def test_closed(self) -> None:
        """
        Or is closed by us.
        """
        peer = self.meet(Scripted(lambda _: self.waiting))
        closing = peer.client.close()
        self.assertEqual(self.cancelled, [self.waiting])
        peer.turn()
        self.successResultOf(closing)
        self.failureResultOf(self.opening, errors.ConnectionClosed)

    def test_not_cancellable(self) -> None:
        """
        A canceller that fails is logged, and does not keep the connection from its
        end.
        """

        def fail(_: Deferred[bytes]) -> None:
            raise ValueError("a canceller's own")

        stubborn: Deferred[bytes] = Deferred(fail)
        peer = self.meet(Scripted(lambda _: stubborn))
        closed = peer.client.when_closed()
        peer.drop()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        for each in (self.opening, closed):
            self.failureResultOf(each, errors.ConnectionLost)

    def test_too_late(self) -> None:
        """
        What comes after the end, be it a response or any failure, has no effect.
        """
        outcomes: list[Callable[[Deferred[bytes]], None]] = [
            lambda deferred: deferred.callback(b"token"),
            lambda deferred: deferred.errback(RuntimeError("no token")),
            lambda deferred: deferred.errback(errors.CommandInvalid("no challenge")),
            lambda deferred: deferred.errback(CancelledError()),
        ]
        for outcome in outcomes:
            deaf: Deferred[bytes] = Deferred(outcome)
            peer = self.meet(Scripted(lambda _, deaf=deaf: deaf))  # type: ignore[misc]
            peer.drop()
            self.failureResultOf(self.opening, errors.ConnectionLost)
            self.assertEqual(peer.transport.writes, [spec.PROTOCOL_HEADER])
            self.assertEqual(peer.clock.getDelayedCalls(), [])


class ChallengeTests(LoginTestCase):
    """
    Mechanisms with more than one round.
    """

    def test_rounds(self) -> None:
        """
        Each challenge is answered, at once or later, for as long as there are any.
        """
        credentials = Scripted(
            lambda challenge: succeed(challenge[::-1]) if challenge else b"hello"
        )
        peer = self.meet(credentials)
        self.assertEqual(peer.expect(spec.ConnectionStartOk).response, b"hello")
        for challenge in (b"abc", b"xyz"):
            peer.send(0, spec.ConnectionSecure(challenge))
            response = peer.expect(spec.ConnectionSecureOk).response
            self.assertEqual(response, challenge[::-1])
        self.assertEqual(credentials.asked, [None, b"abc", b"xyz"])
        peer.tune()
        peer.send(0, spec.ConnectionOpenOk())
        self.successResultOf(self.opening)

    def test_second_challenge_too_early(self) -> None:
        """
        A broker that asks again before it has the answer breaks the rules.
        """
        waiting: Deferred[bytes] = Deferred()
        peer = self.meet(Scripted(lambda challenge: waiting if challenge else b""))
        peer.expect(spec.ConnectionStartOk)
        peer.send(0, spec.ConnectionSecure(b"1"), spec.ConnectionSecure(b"2"))
        self.failureResultOf(self.opening, errors.CommandInvalid)
        self.assertEqual(peer.expect(spec.ConnectionClose).reply_code, 503)
        self.assertTrue(waiting.called)

    def test_lost(self) -> None:
        """
        A connection that is lost before the answer says so.
        """
        peer = self.meet(Scripted(lambda challenge: Deferred() if challenge else b""))
        peer.send(0, spec.ConnectionSecure(b"1"))
        peer.drop()
        error = self.failureResultOf(self.opening, errors.ConnectionLost).value
        self.assertIn("while the credentials were being fetched", str(error))

    def test_too_late(self) -> None:
        """
        An answer that comes after the end goes nowhere.
        """
        deaf: Deferred[bytes] = Deferred(lambda deferred: deferred.callback(b"late"))
        peer = self.meet(Scripted(lambda challenge: deaf if challenge else b""))
        peer.send(0, spec.ConnectionSecure(b"1"))
        peer.listen()
        writes = len(peer.transport.writes)
        peer.drop()
        self.failureResultOf(self.opening, errors.ConnectionLost)
        self.assertTrue(deaf.called)
        self.assertEqual(len(peer.transport.writes), writes)

    def test_refused(self) -> None:
        """
        Credentials that know no such challenge say so to the broker, with 503.
        """

        def respond(challenge: bytes | None) -> object:
            if challenge is not None:
                raise errors.CommandInvalid("one response is all there is")
            return b""

        peer = self.meet(Scripted(respond))
        peer.expect(spec.ConnectionStartOk)
        peer.send(0, spec.ConnectionSecure(b"1"))
        self.failureResultOf(self.opening, errors.CommandInvalid)
        said = peer.expect(spec.ConnectionClose)
        self.assertEqual(
            (said.reply_code, said.reply_text), (503, "one response is all there is")
        )


class ExposureTests(SynchronousTestCase):
    """
    A password that anybody on the way could read (criterion 26).
    """

    def warnings(self, address: str, credentials: ICredentials) -> list[str]:
        """
        What is logged when a client logs in at an address.
        """
        parameters = ConnectionParameters(
            host="rabbit.example", credentials=[credentials]
        )
        with capturedLogs() as events:
            peer = Peer(self, parameters, address=address)
            peer.log_in(b"PLAIN AMQPLAIN EXTERNAL")
        return [str(formatEvent(event)) for event in events]

    def test_network(self) -> None:
        """
        To another machine, there is a warning that names it and what to do.
        """
        for address in (
            "192.0.2.1",
            "10.0.0.1",
            "2001:db8::1",
            "fe80::1%eth0",
            "rabbit.example",
        ):
            (warning,) = self.warnings(address, AMQPlainCredentials("guest", "guest"))
            self.assertIn("rabbit.example", warning)
            self.assertIn("amqps://", warning)
            self.assertNotIn("guest", warning)

    def test_loopback(self) -> None:
        """
        To this machine, there is none.
        """
        for address in ("127.0.0.1", "127.8.8.8", "::1"):
            self.assertEqual(
                self.warnings(address, AMQPlainCredentials("guest", "guest")), []
            )

    def test_unix(self) -> None:
        """
        Nor is there one for a socket in the file system.
        """
        with capturedLogs() as events:
            login = Login(ConnectionParameters(), b"PLAIN")
            login.warn_if_exposed("rabbit", UNIXAddress("/run/rabbit"))
        self.assertEqual(events, [])

    def test_no_password(self) -> None:
        """
        Without a password, there is none either.
        """
        self.assertEqual(self.warnings("192.0.2.1", ExternalCredentials()), [])
