# -*- test-case-name: txamqp091.test.unit.service.test_expiring_credentials -*-
"""
Tests for `txamqp091.service.expiring_credentials`: a secret for each connection, a new
one before the last one expires, and nobody gets to see any.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent

from txamqp091._machine.server import ServerMachine
from txamqp091.credentials import choose
from txamqp091.errors import (
    CommandInvalid,
    ConnectFailed,
    HandshakeTimeout,
    InvalidURI,
)
from txamqp091.interfaces import ICredentials
from txamqp091.service.client import AMQPClientService
from txamqp091.service.expiring_credentials import (
    ExpiringCredentials,
    Secret,
    SecretRefresh,
    SecretUnavailable,
)
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.testing._broker.refusals import Refused
from txamqp091.testing._broker.sessions import Session

STEADY = RetryPolicy(initial_delay=1.0, max_delay=8.0, jitter=0.0)


class Source:
    """
    Where secrets come from: the first is ``token-1``.

    :ivar fetched: how many were asked for.
    :ivar trouble: what to fail with instead.
    :ivar delay: how long it takes.
    """

    def __init__(self, case: SecretCase, lifetime: float | None = 100.0) -> None:
        self.fetched = 0
        self.trouble: Exception | None = None
        self.delay = 0.0
        self.lifetime = lifetime
        self._case = case

    def __call__(self) -> Any:
        self.fetched += 1
        if self.trouble is not None:
            raise self.trouble
        token = f"token-{self.fetched}"
        self._case.broker.add_user("guest", token)
        secret = Secret("guest", token, self.lifetime)
        if self.delay:
            return deferLater(self._case.reactor, self.delay, lambda: secret)
        return secret


class Notes:
    """
    Writes down what happens to a secret.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def observe(self, refresh: SecretRefresh) -> None:
        """
        Begin.
        """
        refresh.observe(
            refreshed=self.refreshed, retrying=self.retrying, expired=self.expired
        )

    def refreshed(self, lifetime: float | None) -> None:
        self.events.append(("refreshed", lifetime))

    def retrying(self, delay: float, reason: BaseException) -> None:
        self.events.append(("retrying", delay, type(reason)))

    def expired(self, reason: BaseException) -> None:
        self.events.append(("expired", type(reason)))


class SecretCase(ServiceCase):
    """
    A test case with a service whose secret expires.
    """

    client: AMQPClientService

    def refresh(
        self, source: Any, *, start: bool = True, **options: Any
    ) -> SecretRefresh:
        """
        A service, and what renews its secret.
        """
        credentials = ExpiringCredentials(self.reactor, source)
        self.client = self.service(start=False, credentials=credentials)
        options.setdefault("policy", STEADY)
        refresh = SecretRefresh(self.client, credentials, **options)
        if start:
            self.client.startService()
            self.turn()
        return refresh

    @property
    def session(self) -> Session:
        """
        The only connection, as the broker sees it.
        """
        (session,) = self.broker.sessions
        return session


class AtOnceTests(SecretCase):
    """
    Renewing when it is asked for.
    """

    def test_at_once(self) -> None:
        """
        The broker has a new one at once, whether the last one expires or not, and the
        times begin anew.
        """
        for lifetime in (100.0, None):
            source = Source(self, lifetime)
            refresh = self.refresh(source)
            self.passes(60)
            refresh.refresh()
            self.turn()
            self.assertEqual(source.fetched, 2)
            self.assertEqual(self.broker.sessions[-1].secret, b"token-2")
            self.passes(60)
            self.assertEqual(source.fetched, 2)
            self.passes(21)
            self.assertEqual(source.fetched, 2 if lifetime is None else 3)
            refresh.stop()

    def test_without_connection(self) -> None:
        """
        Without a connection nothing is asked for; while one is asked for, no other.
        """
        source = Source(self)
        refresh = self.refresh(source, start=False)
        refresh.refresh()
        self.assertEqual(source.fetched, 0)
        self.client.startService()
        self.turn()
        source.delay = 5.0
        refresh.refresh()
        refresh.refresh()
        self.passes(6)
        self.assertEqual(source.fetched, 2)

    def test_words(self) -> None:
        """
        What `SecretUnavailable` says is logged, and it is tried again, though nothing
        expires.
        """
        source = Source(self, None)
        refresh = self.refresh(source)
        source.trouble = SecretUnavailable("the file is empty")
        with capturedLogs() as events:
            refresh.refresh()
            self.turn()
        lines = [formatEvent(each) for each in events]
        self.assertTrue(any("the file is empty" in each for each in lines), lines)
        source.trouble = None
        self.passes(1)
        self.assertEqual(self.session.secret, b"token-3")
        source.trouble = SecretUnavailable("the file is empty")
        self.cut()
        self.passes(1)
        self.assertIn("the file is empty", str(self.client.error))
        source.trouble = None
        self.passes(20)


class CredentialsTests(SecretCase):
    """
    What a connection logs in with.
    """

    def test_each_connection(self) -> None:
        """
        Each connection asks for a secret of its own.
        """
        source = Source(self)
        self.refresh(source)
        self.assertReady(self.client)
        self.cut()
        self.passes(5)
        self.assertReady(self.client)
        self.assertEqual(source.fetched, 2)

    def test_later(self) -> None:
        """
        It may take its time.
        """
        source = Source(self)
        source.delay = 3.0
        self.refresh(source)
        self.passes(3)
        self.assertReady(self.client)

    def test_too_late(self) -> None:
        """
        But not for ever: then there is no connection, and another attempt.
        """
        self.refresh(Deferred)
        self.passes(11)
        self.assertIsInstance(self.client.error, HandshakeTimeout)
        self.assertIsNone(self.client.connection)

    def test_trouble(self) -> None:
        """
        A source that fails leaves the service without a connection, until it does not
        fail any more.
        """
        source = Source(self)
        source.trouble = ConnectionRefusedError()
        self.refresh(source)
        error = self.client.error
        self.assertIsInstance(error, ConnectFailed)
        self.assertEqual(
            str(error),
            "the secret to log in with could not be had: ConnectionRefusedError",
        )
        source.trouble = None
        self.passes(1)
        self.assertReady(self.client)

    def test_no_secret(self) -> None:
        """
        What is no secret is not shown, and what cannot be sent is refused.
        """
        wrong: list[Any] = ["token-1", ("guest", "token-1")]
        for _ in range(2):
            credentials = ExpiringCredentials(self.reactor, wrong.pop)
            error = self.failureResultOf(credentials.respond(None), TypeError).value
            self.assertNotIn("token", str(error))
        credentials = ExpiringCredentials(self.reactor, lambda: Secret("a", "b\0"))
        self.failureResultOf(credentials.respond(None), InvalidURI)
        with self.assertRaises(CommandInvalid):
            credentials.respond(b"?")

    def test_interface(self) -> None:
        """
        They are credentials like others, and are not seen.
        """
        credentials = ExpiringCredentials(self.reactor, lambda: Secret("a", "canary"))
        self.assertTrue(ICredentials.providedBy(credentials))
        self.assertIs(choose([credentials], b"AMQPLAIN PLAIN"), credentials)
        response = self.successResultOf(credentials.respond(None))
        self.assertEqual(response, b"\0a\0canary")
        secret = Secret("a", "canary", 3.0)
        self.assertEqual(repr(secret), "Secret('a', ***, lifetime=3.0)")
        self.assertEqual(repr(credentials), "ExpiringCredentials(***)")


class RefreshTests(SecretCase):
    """
    A new secret before the last one expires.
    """

    def test_in_time(self) -> None:
        """
        After a part of its lifetime, again and again.
        """
        source, notes = Source(self), Notes()
        refresh = self.refresh(source)
        notes.observe(refresh)
        self.passes(79.5)
        self.assertEqual(source.fetched, 1)
        self.assertIsNone(self.session.secret)
        self.passes(0.5)
        self.assertEqual(self.session.secret, b"token-2")
        source.lifetime = 10.0
        self.passes(80)
        self.assertEqual(self.session.secret, b"token-3")
        self.passes(8)
        self.assertEqual(self.session.secret, b"token-4")
        self.assertEqual(refresh.refreshes, 3)
        kinds = [("refreshed", 100.0), ("refreshed", 10.0), ("refreshed", 10.0)]
        self.assertEqual(notes.events, kinds)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_from_when_it_was_asked_for(self) -> None:
        """
        The lifetime is counted from when the secret was asked for, not from when it
        came.
        """
        source = Source(self)
        source.delay = 5.0
        self.refresh(source, fraction=0.5)
        self.passes(49.5)
        self.assertEqual(source.fetched, 1)
        self.passes(0.5)
        self.assertEqual(source.fetched, 2)
        self.passes(5)
        self.assertEqual(self.session.secret, b"token-2")
        self.passes(45)
        self.assertEqual(source.fetched, 3)

    def test_for_ever(self) -> None:
        """
        A secret that does not expire is not renewed.
        """
        source = Source(self, None)
        self.refresh(source)
        self.passes(1000, 10)
        self.assertEqual(source.fetched, 1)

    def test_at_last_for_ever(self) -> None:
        """
        Nor is the one after it, if that does not expire.
        """
        source = Source(self)
        refresh = self.refresh(source)
        source.lifetime = None
        self.passes(1000, 10)
        self.assertEqual((source.fetched, refresh.refreshes), (2, 1))

    def test_next_connection(self) -> None:
        """
        The next connection has a secret of its own, with a time of its own; that of the
        last one does not count.
        """
        source = Source(self)
        self.refresh(source)
        self.passes(70)
        self.cut()
        self.passes(5)
        self.assertEqual(source.fetched, 2)
        self.passes(70)
        self.assertEqual(source.fetched, 2)
        self.passes(10)
        self.assertEqual(self.session.secret, b"token-3")

    def test_lost_while_fetching(self) -> None:
        """
        When the connection goes while a secret is fetched, that is cancelled.
        """
        cancelled: list[object] = []
        answers: list[Any] = [Secret("guest", "guest", 10.0)]

        def source() -> Any:
            return answers.pop() if answers else Deferred(cancelled.append)

        self.refresh(source)
        self.passes(8)
        self.assertEqual(cancelled, [])
        answers.append(Secret("guest", "guest"))
        self.cut()
        self.assertEqual(len(cancelled), 1)
        self.passes(20)
        self.assertReady(self.client)

    def test_refused(self) -> None:
        """
        A broker that refuses the new secret closes the connection, and the next one has
        another.
        """
        source = Source(self)
        self.refresh(source)

        def refuse(session: Session, secret: bytes, reason: str) -> None:
            raise Refused(530, "no", connection=True)

        self.patch(Session, "update_secret", refuse)
        self.passes(80)
        self.assertIsNone(self.client.connection)
        self.passes(20)
        self.assertReady(self.client)
        self.assertEqual(source.fetched, 3)

    def test_of_a_connection_that_is_there(self) -> None:
        """
        It may be made when there is a connection.
        """
        source = Source(self)
        credentials = ExpiringCredentials(self.reactor, source)
        service = self.service(credentials=credentials)
        refresh = SecretRefresh(service, credentials)
        self.passes(80)
        self.assertEqual(refresh.refreshes, 1)
        refresh.stop()
        self.passes(100)
        self.cut()
        self.passes(100)
        self.assertEqual(refresh.refreshes, 1)

    def test_wrong_fraction(self) -> None:
        """
        A part of a lifetime is more than nothing, and not more than all.
        """
        for wrong in (0, -1, 1.1):
            with self.assertRaises(ValueError):
                self.refresh(Source(self), start=False, fraction=wrong)


class TroubleTests(SecretCase):
    """
    There is no new secret.
    """

    def test_tried_again(self) -> None:
        """
        It is tried again, with growing delays; when one comes in time, all is well.
        """
        source, notes = Source(self), Notes()
        notes.observe(self.refresh(source))
        source.trouble = ConnectionRefusedError()
        self.passes(80)
        self.passes(6)
        source.trouble = None
        self.passes(1)
        refused = ConnectionRefusedError
        self.assertEqual(
            notes.events,
            [
                ("retrying", 1.0, refused),
                ("retrying", 2.0, refused),
                ("retrying", 4.0, refused),
                ("refreshed", 100.0),
            ],
        )
        self.assertEqual(self.session.secret, b"token-5")

    def test_expired(self) -> None:
        """
        When the last one has expired, that is told, once; the attempts go on.
        """
        source, notes = Source(self), Notes()
        notes.observe(self.refresh(source))
        source.trouble = ConnectionRefusedError()
        self.passes(100)
        kinds = [event[0] for event in notes.events]
        self.assertEqual(sorted(kinds), ["expired"] + ["retrying"] * 6)
        self.passes(20)
        self.assertEqual([event[0] for event in notes.events].count("expired"), 1)
        source.trouble = None
        self.passes(8)
        self.assertEqual(notes.events[-1][0], "refreshed")
        source.trouble = ConnectionRefusedError()
        self.passes(100)
        self.assertEqual([event[0] for event in notes.events].count("expired"), 2)
        self.assertReady(self.client)

    def test_unanswered(self) -> None:
        """
        A broker that does not answer ``connection.update-secret`` is asked again, and
        the expiry is told when it is due.
        """
        source, notes = Source(self), Notes()
        notes.observe(self.refresh(source))
        held: list[ServerMachine] = []
        answer = ServerMachine.update_secret_ok
        self.patch(
            ServerMachine, "update_secret_ok", lambda machine: held.append(machine)
        )
        self.passes(99)
        self.assertEqual(notes.events, [("retrying", 1.0, TimeoutError)])
        self.passes(1)
        self.assertEqual(notes.events[-1], ("expired", TimeoutError))
        self.patch(ServerMachine, "update_secret_ok", answer)
        for each in held:
            answer(each)
        self.passes(20)
        self.assertEqual(notes.events[-1], ("refreshed", 100.0))

    def test_takes_too_long(self) -> None:
        """
        A source that does not answer is asked again.
        """
        answers: list[Any] = [Secret("guest", "guest", 100.0)]
        asked: list[float] = []

        def source() -> Any:
            asked.append(self.clock.seconds())
            return answers.pop() if answers else Deferred()

        notes = Notes()
        notes.observe(self.refresh(source))
        self.passes(95)
        self.assertEqual(asked, [0.0, 80.0, 91.0])
        self.assertEqual(notes.events, [("retrying", 1.0, TimeoutError)])

    def test_secret_that_cannot_be_sent(self) -> None:
        """
        What is no secret, or cannot be sent, is tried again too.
        """
        answers: list[Any] = [
            "token-3",
            Secret("guest", "\udc00\ud800", 1.0),
            Secret("guest", "guest", 100.0),
        ]
        notes = Notes()
        notes.observe(self.refresh(lambda: succeed(answers.pop())))
        self.passes(82)
        self.assertEqual([event[0] for event in notes.events], ["retrying"] * 2)

    def test_observer_fails(self) -> None:
        """
        An observer that fails is logged, and does no harm.
        """

        def faulty(lifetime: float | None) -> None:
            raise ZeroDivisionError

        refresh = self.refresh(Source(self))
        refresh.observe(refreshed=faulty)
        self.passes(160)
        self.assertEqual(refresh.refreshes, 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_nothing_is_shown(self) -> None:
        """
        Criterion 28: no secret is in the log, whatever goes wrong.
        """
        source = Source(self)
        with capturedLogs() as events:
            self.refresh(source)
            source.trouble = ValueError("the token was token-77")
            self.passes(150)
            source.trouble = None
            self.passes(100)
            self.cut()
            self.passes(10)
        text = " ".join(map(formatEvent, events)) + repr(events)
        self.assertIn("was not renewed", text)
        self.assertNotIn("token-", text)
