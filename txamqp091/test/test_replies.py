# -*- test-case-name: txamqp091.test.test_replies -*-
"""
Tests for `txamqp091._machine.replies`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.replies import Replies
from txamqp091.errors import ChannelClosed, CommandInvalid
from txamqp091.wire import spec
from txamqp091.wire.method import Method

QUESTIONS: list[type[Method]] = [
    spec.QueueDeclare,
    spec.QueueBind,
    spec.BasicGet,
    spec.ExchangeDeclare,
    spec.TxSelect,
]


class RepliesTests(SynchronousTestCase):
    """
    Tests for `Replies`.
    """

    def setUp(self) -> None:
        self.replies = Replies()

    def ask(self, question: type[Method] = spec.QueueDeclare) -> Deferred[Method]:
        """
        Expect the answer to a question.
        """
        deferred: Deferred[Method] = Deferred()
        self.replies.expect(question.replies, deferred)
        return deferred

    def answer(self, reply: Method) -> None:
        """
        Give the answer to whoever waits for it.
        """
        self.replies.take(type(reply)).callback(reply)

    def test_first_in_first_out(self) -> None:
        """
        Each answer goes to the oldest question.
        """
        asked = [self.ask() for _ in range(3)]
        self.assertEqual(len(self.replies), 3)
        for place, deferred in enumerate(asked):
            self.assertNoResult(deferred)
            self.answer(spec.QueueDeclareOk("q", place))
            self.assertEqual(
                self.successResultOf(deferred), spec.QueueDeclareOk("q", place)
            )
        self.assertEqual(len(self.replies), 0)

    def test_alternatives(self) -> None:
        """
        A question may have more than one kind of answer.
        """
        empty, full = self.ask(spec.BasicGet), self.ask(spec.BasicGet)
        self.answer(spec.BasicGetEmpty())
        self.answer(spec.BasicGetOk(1))
        self.assertEqual(self.successResultOf(empty), spec.BasicGetEmpty())
        self.assertEqual(self.successResultOf(full), spec.BasicGetOk(1))

    def test_unsolicited(self) -> None:
        """
        An answer that nobody waits for is an error, which names it.
        """
        error = self.assertRaises(CommandInvalid, self.replies.take, spec.TxCommitOk)
        self.assertEqual(error.reply_code, 503)
        self.assertEqual((error.class_id, error.method_id), (90, 21))
        self.assertEqual(error.reply_text, "tx.commit-ok, for which nobody asked")

    def test_mismatch(self) -> None:
        """
        An answer to another question is an error, which names both; and whoever
        waits still waits.
        """
        waiting = self.ask(spec.BasicGet)
        for look in (self.replies.take, self.replies.check):
            error = self.assertRaises(CommandInvalid, look, spec.QueueDeclareOk)
            self.assertEqual(
                error.reply_text,
                "queue.declare-ok instead of basic.get-ok or basic.get-empty",
            )
            self.assertEqual((error.class_id, error.method_id), (50, 11))
        self.assertEqual(len(self.replies), 1)
        self.assertNoResult(waiting)
        self.answer(spec.BasicGetEmpty())
        self.successResultOf(waiting)

    def test_check_takes_nothing(self) -> None:
        """
        To check whether an answer is due leaves it due.
        """
        waiting = self.ask(spec.BasicGet)
        self.replies.check(spec.BasicGetOk)
        self.assertEqual(len(self.replies), 1)
        self.answer(spec.BasicGetOk(1))
        self.successResultOf(waiting)

    def test_cancelled(self) -> None:
        """
        Whoever gave up keeps its place: its answer is swallowed, and is not taken
        for the next one's.
        """
        first, second, third = self.ask(), self.ask(), self.ask()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        for place in range(3):
            self.answer(spec.QueueDeclareOk("q", place))
        self.assertEqual(self.successResultOf(first), spec.QueueDeclareOk("q", 0))
        self.assertEqual(self.successResultOf(third), spec.QueueDeclareOk("q", 2))

    def test_fail(self) -> None:
        """
        All who wait are told, once, the reason; those who gave up are not.
        """
        reason = ChannelClosed("gone")
        asked = [self.ask() for _ in range(3)]
        asked[1].cancel()
        self.failureResultOf(asked[1], CancelledError)
        self.replies.fail(reason)
        for deferred in (asked[0], asked[2]):
            self.assertIs(self.failureResultOf(deferred, ChannelClosed).value, reason)
        self.replies.fail(ChannelClosed("again"))
        self.assertEqual(len(self.replies), 0)

    def test_asking_from_inside_a_failure(self) -> None:
        """
        Whoever is told of the end and asks anew is not told of the same end.
        """
        later: list[Deferred[Method]] = []
        self.ask().addErrback(lambda _: later.append(self.ask()))
        self.replies.fail(ChannelClosed("gone"))
        self.assertNoResult(later[0])
        self.assertEqual(len(self.replies), 1)

    @given(st.data())
    def test_against_a_list(self, data: st.DataObject) -> None:
        """
        Any sequence of questions, answers and cancellations does what it does with a
        plain list.
        """
        replies = Replies()
        model: list[tuple[type[Method], Deferred[Method]]] = []
        fired: list[Deferred[Method]] = []
        for _ in range(data.draw(st.integers(0, 30))):
            step = data.draw(st.sampled_from(("ask", "answer", "cancel", "wrong")))
            if step == "ask":
                question = data.draw(st.sampled_from(QUESTIONS))
                deferred: Deferred[Method] = Deferred()
                replies.expect(question.replies, deferred)
                model.append((question, deferred))
            elif step == "answer" and model:
                question, deferred = model.pop(0)
                reply = data.draw(st.sampled_from(question.replies))
                replies.take(reply).callback(reply())
                if deferred not in fired:
                    self.assertIsInstance(self.successResultOf(deferred), reply)
                    fired.append(deferred)
            elif step == "cancel" and model:
                deferred = data.draw(st.sampled_from(model))[1]
                if deferred not in fired:
                    deferred.cancel()
                    self.failureResultOf(deferred, CancelledError)
                    fired.append(deferred)
            elif step == "wrong":
                with self.assertRaises(CommandInvalid):
                    replies.take(spec.ChannelOpenOk)
            self.assertEqual(len(replies), len(model))
        reason = ChannelClosed("gone")
        replies.fail(reason)
        for _, deferred in model:
            if deferred not in fired:
                self.assertIs(self.failureResultOf(deferred).value, reason)
