# -*- test-case-name: txamqp091.test.unit.client.test_blocked -*-
"""
Tests for a broker that asks for no more publishing, and for ``update-secret``: the
talk on channel 0 of an open connection.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.message import Message
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec


class BlockedTests(SynchronousTestCase):
    """
    ``connection.blocked`` and ``connection.unblocked``.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake()

    def block(self, reason: str = "low on memory") -> None:
        """
        Have the broker block.
        """
        self.peer.send(0, spec.ConnectionBlocked(reason))

    def unblock(self) -> None:
        """
        Have the broker go on.
        """
        self.peer.send(0, spec.ConnectionUnblocked())

    def bodies(self) -> list[bytes]:
        """
        What has been published.
        """
        said, self.peer.said = self.peer.listen(), []
        return [each.body for each in said]

    def test_when_unblocked(self) -> None:
        """
        It fires at once if nothing is blocked, and else when publishing may go on.
        """
        self.assertIsNone(self.successResultOf(self.client.when_unblocked()))
        self.assertIsNone(self.client.blocked)
        self.block()
        self.assertEqual(self.client.blocked, "low on memory")
        first, second = self.client.when_unblocked(), self.client.when_unblocked()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertNoResult(first)
        self.unblock()
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.client.blocked)
        self.assertIsNone(self.successResultOf(self.client.when_unblocked()))

    def test_again(self) -> None:
        """
        Each time is waited for by itself.
        """
        for _ in range(3):
            self.block()
            waiting = self.client.when_unblocked()
            self.assertNoResult(waiting)
            self.unblock()
            self.successResultOf(waiting)

    def test_observers(self) -> None:
        """
        Observers are told both; one that raises is logged, and does not keep the
        others from it.
        """
        told: list[str | None] = []

        def fail(reason: str | None) -> None:
            raise ValueError("an observer's own")

        self.client.observe_blocked(fail)
        self.client.observe_blocked(told.append)
        self.block("low on disk")
        self.block("low on memory")
        self.unblock()
        self.assertEqual(told, ["low on disk", "low on memory", None])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)
        self.assertTrue(self.client.is_open)

    def test_undo(self) -> None:
        """
        An observation can be ended, each by itself, and twice without harm.
        """
        told: list[str | None] = []
        first = self.client.observe_blocked(told.append)
        self.client.observe_blocked(told.append)
        first()
        first()
        self.block()
        self.assertEqual(told, ["low on memory"])

    def test_strange_observers(self) -> None:
        """
        No observer ends the connection, whatever it raises; one that is a coroutine
        runs.
        """
        told: list[str | None] = []

        def leave(reason: str | None) -> None:
            raise SystemExit(3)

        async def later(reason: str | None) -> None:
            told.append(reason)
            raise ValueError("later")

        self.client.observe_blocked(leave)
        self.client.observe_blocked(later)
        self.block()
        self.assertEqual(told, ["low on memory"])
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.client.is_open)

    def test_publishes_wait(self) -> None:
        """
        Publishes of all channels wait, and leave in their order when they may.
        """
        one, two = self.peer.open_channel(), self.peer.open_channel()
        two.confirm_select()
        self.peer.serve()
        self.block()
        waiting = [one.basic_publish("", "work", b"%d" % n) for n in range(3)]
        batch = two.publish_many(Message("", "work", b"b%d" % n) for n in range(3))
        confirmed = two.basic_publish("", "work", b"last")
        self.assertEqual(self.bodies(), [])
        for each in (*waiting, batch, confirmed):
            self.assertNoResult(each)
        self.unblock()
        self.assertEqual(
            self.bodies(), [b"0", b"1", b"2", b"b0", b"b1", b"b2", b"last"]
        )
        for each in waiting:
            self.assertIsNone(self.successResultOf(each))
        self.peer.send(two.number, spec.BasicAck(4, True))
        self.assertIsNone(self.successResultOf(batch))
        self.assertIsNone(self.successResultOf(confirmed))

    def test_other_calls_pass(self) -> None:
        """
        What is no publish does not wait.
        """
        channel = self.peer.open_channel()
        self.block()
        declaring = channel.queue_declare("work")
        self.peer.serve()
        self.successResultOf(declaring)

    def test_cancel(self) -> None:
        """
        A publish that is cancelled while it waits does not leave.
        """
        channel = self.peer.open_channel()
        self.block()
        waiting = [channel.basic_publish("", "work", b"%d" % n) for n in range(3)]
        waiting[1].cancel()
        self.failureResultOf(waiting[1], CancelledError)
        self.unblock()
        self.assertEqual(self.bodies(), [b"0", b"2"])

    def test_lost(self) -> None:
        """
        Whoever waits learns of the end of the connection.
        """
        channel = self.peer.open_channel()
        self.block()
        waiting = [
            channel.basic_publish("", "work", b"x"),
            self.client.when_unblocked(),
        ]
        self.peer.send(0, spec.ConnectionClose(320, "CONNECTION_FORCED"))
        waiting.append(self.client.when_unblocked())
        for each in waiting:
            self.failureResultOf(each, errors.ConnectionForced)

    def test_closed_from_observer(self) -> None:
        """
        An observer may close the connection: nothing is published then.
        """
        channel = self.peer.open_channel()
        self.block()
        waiting = channel.basic_publish("", "work", b"x")
        unblocked = self.client.when_unblocked()
        self.client.observe_blocked(lambda reason: self.client.close())
        self.unblock()
        for each in (waiting, unblocked):
            self.assertTrue(
                self.failureResultOf(each, errors.ConnectionClosed).value.by_us
            )
        self.assertEqual([each.method.name for each in self.peer.listen()],
                         ["connection.close"])  # fmt: skip

    def test_blocked_and_full(self) -> None:
        """
        Both have to be over before publishing goes on.
        """
        channel = self.peer.open_channel()
        self.peer.turn()
        self.peer.transport.capacity = 0
        channel.basic_ack(1)
        self.peer.turn()
        self.block()
        waiting = channel.basic_publish("", "work", b"x")
        self.unblock()
        self.assertNoResult(waiting)
        self.block()
        self.peer.drain()
        self.assertNoResult(waiting)
        self.unblock()
        self.successResultOf(waiting)


class UpdateSecretTests(SynchronousTestCase):
    """
    ``connection.update-secret``.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake()

    def test_update(self) -> None:
        """
        The new secret is sent, as text or bytes, and the answer waited for.
        """
        for secret in ("t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken", b"t\xc3\xb6ken"):
            updating = self.client.update_secret(secret, "expires")
            self.assertNoResult(updating)
            said = self.peer.expect(spec.ConnectionUpdateSecret)
            self.assertEqual(said.new_secret, b"t\xc3\xb6ken")
            self.assertEqual(said.reason, "expires")
            self.peer.send(0, spec.ConnectionUpdateSecretOk())
            self.successResultOf(updating)

    def test_pipelined(self) -> None:
        """
        Answers belong to their questions, also when one was given up.
        """
        updating = [self.client.update_secret(b"%d" % n) for n in range(3)]
        updating[0].cancel()
        self.failureResultOf(updating[0], CancelledError)
        self.peer.send(0, spec.ConnectionUpdateSecretOk())
        self.assertNoResult(updating[1])
        self.peer.send(0, spec.ConnectionUpdateSecretOk())
        self.successResultOf(updating[1])
        self.assertNoResult(updating[2])
        self.peer.send(0, spec.ConnectionUpdateSecretOk())
        self.successResultOf(updating[2])

    def test_refused(self) -> None:
        """
        A broker that does not like it closes the connection, and says why.
        """
        updating = self.client.update_secret("wrong")
        self.peer.send(0, spec.ConnectionClose(530, "NOT_ALLOWED - bad token", 10, 70))
        error = self.failureResultOf(updating, errors.NotAllowed).value
        self.assertEqual(error.operation, "connection.update-secret")
        self.assertIn("bad token", str(error))

    def test_impossible(self) -> None:
        """
        What cannot be sent fails through the Deferred, without being shown; the
        connection stays open.
        """
        wrong: list[tuple[object, str]] = [
            ("hunter2\ud800", ""),
            (7, ""),
            (None, ""),
            ("hunter2", "x" * 256),
        ]
        for secret, reason in wrong:
            updating = self.client.update_secret(secret, reason)  # type: ignore[arg-type]
            failure = self.failureResultOf(updating, errors.EncodeError)
            self.assertNotIn("hunter2", repr(failure.value) + failure.getTraceback())
        self.assertEqual(self.peer.listen(), [])
        self.assertTrue(self.client.is_open)
