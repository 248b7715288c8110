# -*- test-case-name: txamqp091.test.unit.machine.test_replies -*-
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

QUESTIONS: list[Method] = [
    spec.QueueDeclare(),
    spec.QueueBind(),
    spec.BasicGet(),
    spec.ExchangeDeclare(),
    spec.TxSelect(),
    spec.TxCommit(),
    spec.BasicConsume(consumer_tag="a"),
    spec.BasicConsume(consumer_tag="b"),
    spec.BasicCancel("a"),
]

#: Those whose answers need not keep to the order.
APART = (spec.TxCommit, spec.BasicConsume, spec.BasicCancel)


class RepliesTests(SynchronousTestCase):
    """
    Tests for `Replies`.
    """

    def setUp(self) -> None:
        self.replies = Replies()

    def ask(self, question: Method | None = None) -> Deferred[Method]:
        """
        Expect the answer to a question.
        """
        deferred: Deferred[Method] = Deferred()
        self.replies.expect(question or spec.QueueDeclare(), deferred)
        return deferred

    def answer(self, reply: Method) -> None:
        """
        Give the answer to whoever waits for it.
        """
        self.replies.take(reply).callback(reply)

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
        empty, full = self.ask(spec.BasicGet()), self.ask(spec.BasicGet())
        self.answer(spec.BasicGetEmpty())
        self.answer(spec.BasicGetOk(1))
        self.assertEqual(self.successResultOf(empty), spec.BasicGetEmpty())
        self.assertEqual(self.successResultOf(full), spec.BasicGetOk(1))

    def test_unsolicited(self) -> None:
        """
        An answer that nobody waits for is an error, which names it.
        """
        error = self.assertRaises(CommandInvalid, self.replies.take, spec.TxCommitOk())
        self.assertEqual(error.reply_code, 503)
        self.assertEqual((error.class_id, error.method_id), (90, 21))
        self.assertEqual(error.reply_text, "tx.commit-ok, for which nobody asked")

    def test_mismatch(self) -> None:
        """
        An answer to another question is an error, which names both; and whoever
        waits still waits.
        """
        waiting = self.ask(spec.BasicGet())
        for look in (
            lambda: self.replies.take(spec.QueueDeclareOk()),
            lambda: self.replies.check(spec.QueueDeclareOk),
        ):
            error = self.assertRaises(CommandInvalid, look)
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
        waiting = self.ask(spec.BasicGet())
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

    def test_answers_of_queues(self) -> None:
        """
        RabbitMQ answers ``basic.consume`` and ``basic.cancel`` when the queue does,
        maybe after later requests: their answers are known by the consumer tag.
        """
        one = self.ask(spec.BasicConsume(consumer_tag="one"))
        two = self.ask(spec.BasicConsume(consumer_tag="two"))
        cancel = self.ask(spec.BasicCancel("one"))
        delete = self.ask(spec.QueueDelete())
        self.assertEqual(len(self.replies), 4)
        self.answer(spec.QueueDeleteOk(7))
        self.assertEqual(self.successResultOf(delete), spec.QueueDeleteOk(7))
        self.answer(spec.BasicCancelOk("one"))
        self.answer(spec.BasicConsumeOk("two"))
        self.assertNoResult(one)
        self.answer(spec.BasicConsumeOk("one"))
        for deferred, tag in ((one, "one"), (two, "two"), (cancel, "one")):
            self.assertEqual(
                self.successResultOf(deferred).consumer_tag,  # type: ignore[attr-defined]
                tag,
            )
        for reply in (spec.BasicConsumeOk("one"), spec.BasicCancelOk("one")):
            self.assertRaises(CommandInvalid, self.replies.take, reply)

    def test_tag_of_the_broker(self) -> None:
        """
        A consumer that left its tag to the broker takes an answer with any tag that
        is nobody else's.
        """
        unnamed = self.ask(spec.BasicConsume())
        named = self.ask(spec.BasicConsume(consumer_tag="mine"))
        self.answer(spec.BasicConsumeOk("mine"))
        self.successResultOf(named)
        self.answer(spec.BasicConsumeOk("amq.ctag-x"))
        self.successResultOf(unnamed)

    def test_commits(self) -> None:
        """
        RabbitMQ answers ``tx.commit`` once its messages are safe, maybe after later
        requests.
        """
        commit, declare = self.ask(spec.TxCommit()), self.ask()
        self.answer(spec.QueueDeclareOk())
        self.successResultOf(declare)
        self.answer(spec.TxCommitOk())
        self.successResultOf(commit)

    def test_same_tag_again(self) -> None:
        """
        Requests with one tag are answered in their order.
        """
        first, second = self.ask(spec.BasicCancel("x")), self.ask(spec.BasicCancel("x"))
        self.answer(spec.BasicCancelOk("x"))
        self.successResultOf(first)
        self.assertNoResult(second)
        self.replies.fail(ChannelClosed("gone"))
        self.failureResultOf(second, ChannelClosed)

    @given(st.data())
    def test_against_a_list(self, data: st.DataObject) -> None:
        """
        Any sequence of questions, answers and cancellations does what it does with a
        plain list.
        """
        replies = Replies()
        model: list[tuple[Method, Deferred[Method]]] = []
        fired: list[Deferred[Method]] = []
        for _ in range(data.draw(st.integers(0, 30))):
            step = data.draw(st.sampled_from(("ask", "answer", "cancel", "wrong")))
            if step == "ask":
                question = data.draw(st.sampled_from(QUESTIONS))
                deferred: Deferred[Method] = Deferred()
                replies.expect(question, deferred)
                model.append((question, deferred))
            elif step == "answer" and model:
                # The oldest, or one of those that may come at any time.
                able = [
                    next(pair for pair in model if pair[0] == question)
                    for question, _ in model
                    if isinstance(question, APART)
                ]
                able += [pair for pair in model if not isinstance(pair[0], APART)][:1]
                question, deferred = pair = data.draw(st.sampled_from(able))
                model.remove(pair)
                reply = data.draw(st.sampled_from(question.replies))()
                if hasattr(reply, "consumer_tag"):
                    reply.consumer_tag = getattr(question, "consumer_tag", "")
                replies.take(reply).callback(reply)
                if deferred not in fired:
                    self.assertIs(self.successResultOf(deferred), reply)
                    fired.append(deferred)
            elif step == "cancel" and model:
                deferred = data.draw(st.sampled_from(model))[1]
                if deferred not in fired:
                    deferred.cancel()
                    self.failureResultOf(deferred, CancelledError)
                    fired.append(deferred)
            elif step == "wrong":
                with self.assertRaises(CommandInvalid):
                    replies.take(spec.ChannelOpenOk())
            self.assertEqual(len(replies), len(model))
        reason = ChannelClosed("gone")
        replies.fail(reason)
        for _, deferred in model:
            if deferred not in fired:
                self.assertIs(self.failureResultOf(deferred).value, reason)
