# -*- test-case-name: txamqp091.test.unit.machine.test_confirms -*-
"""
Tests for `txamqp091._machine.confirms`.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.confirms import Confirms
from txamqp091.errors import ChannelClosed, CommandInvalid, Nacked, Returned

ACK, NACK = True, False


class Outcome:
    """
    What became of one message.
    """

    def __init__(self, log: list[Outcome] | None = None, number: int = 0) -> None:
        self.results: list[object] = []
        self.number = number
        self._log = log

    def callback(self, result: object, /) -> None:
        self._add("ack")

    def errback(self, fail: object, /) -> None:
        self._add("nack" if isinstance(fail, Nacked) else fail)

    def _add(self, result: object) -> None:
        self.results.append(result)
        if self._log is not None:
            self._log.append(self)


class Base(SynchronousTestCase):
    """
    A channel in confirm mode.
    """

    def setUp(self) -> None:
        self.confirms = Confirms()
        self.log: list[Outcome] = []

    def publish(self, count: int = 1) -> list[Outcome]:
        """
        Publish messages.
        """
        outcomes = [Outcome(self.log) for _ in range(count)]
        for outcome in outcomes:
            self.confirms.publish(outcome)
            outcome.number = self.confirms.published
        return outcomes

    def mandatory(self, body: bytes, exchange: str = "x", key: str = "k") -> Outcome:
        """
        Publish a message that may come back.
        """
        outcome = Outcome(self.log)
        self.confirms.publish_mandatory(outcome, exchange, key, body)
        outcome.number = self.confirms.published
        return outcome

    def give_back(self, body: bytes, exchange: str = "x", key: str = "k") -> Returned:
        """
        Have a message come back.
        """
        error = Returned(body, 312, "NO_ROUTE")
        self.confirms.returned(exchange, key, body, error)
        return error


class SettleTests(Base):
    """
    Tests for acks and nacks.
    """

    def results(self, outcomes: list[Outcome]) -> list[object]:
        """
        What became of messages; None for what is outstanding.
        """
        for outcome in outcomes:
            self.assertLessEqual(len(outcome.results), 1)
        return [each.results[0] if each.results else None for each in outcomes]

    def test_one_by_one(self) -> None:
        """
        Acks and nacks settle the message of their number, in any order.
        """
        sent = self.publish(4)
        self.confirms.settle(3, False, ACK)
        self.assertEqual(self.results(sent), [None, None, "ack", None])
        self.confirms.settle(1, False, NACK)
        self.confirms.settle(4, False, ACK)
        self.confirms.settle(2, False, ACK)
        self.assertEqual(self.results(sent), ["nack", "ack", "ack", "ack"])
        self.assertEqual([each.number for each in self.log], [3, 1, 4, 2])
        self.assertEqual(self.confirms.outstanding, {})

    def test_multiple(self) -> None:
        """
        With ``multiple``, all up to a number are settled, in their order, but those
        that were settled before.
        """
        sent = self.publish(6)
        self.confirms.settle(2, False, NACK)
        self.confirms.settle(4, True, ACK)
        self.assertEqual(self.results(sent), ["ack", "nack", "ack", "ack", None, None])
        self.assertEqual([each.number for each in self.log], [2, 1, 3, 4])
        self.confirms.settle(6, True, NACK)
        self.assertEqual(self.results(sent)[4:], ["nack", "nack"])

    def test_multiple_whose_own_number_is_settled(self) -> None:
        """
        Defect D17 of another client: ``multiple`` up to a message that was settled
        already still settles those before it.
        """
        sent = self.publish(4)
        self.confirms.settle(3, False, ACK)
        self.confirms.settle(3, True, ACK)
        self.assertEqual(self.results(sent), ["ack", "ack", "ack", None])

    def test_multiple_zero(self) -> None:
        """
        Number 0 with ``multiple`` is all that was published.
        """
        sent = self.publish(3)
        self.confirms.settle(0, True, ACK)
        self.assertEqual(self.results(sent), ["ack"] * 3)
        late = self.publish(1)
        self.confirms.settle(0, True, ACK)
        self.assertEqual(self.results(late), ["ack"])

    def test_repeated(self) -> None:
        """
        To settle a message again does nothing.
        """
        sent = self.publish(3)
        for multiple in (False, True, False, True):
            self.confirms.settle(2, multiple, ACK)
            self.confirms.settle(1, multiple, NACK)
            self.confirms.settle(2, multiple, NACK)
        self.assertEqual(self.results(sent), ["nack", "ack", None])

    def test_unpublished(self) -> None:
        """
        A confirm for a message that was not published is an error, and changes
        nothing.
        """
        for number, multiple in ((1, False), (1, True), (0, False), (0, True)):
            with self.assertRaises(CommandInvalid) as caught:
                self.confirms.settle(number, multiple, ACK)
            self.assertEqual(caught.exception.reply_code, 503)
        sent = self.publish(2)
        for number, multiple in ((3, False), (3, True), (0, False), (2**64 - 1, True)):
            with self.assertRaises(CommandInvalid) as caught:
                self.confirms.settle(number, multiple, ACK)
            self.assertEqual(
                str(caught.exception), f"503 a confirm for the message {number} of 2"
            )
        self.assertEqual(self.results(sent), [None, None])

    def test_fail(self) -> None:
        """
        What is outstanding at the end fails with the reason, once.
        """
        sent = self.publish(3)
        self.confirms.settle(2, False, ACK)
        reason = ChannelClosed("gone")
        self.confirms.fail(reason)
        self.confirms.fail(ChannelClosed("again"))
        self.assertEqual(self.results(sent), [reason, "ack", reason])

    def test_from_inside(self) -> None:
        """
        Whoever is told of its message may publish more, or end everything.
        """
        confirms = self.confirms
        test = self

        class Publishes(Outcome):
            def callback(self, result: object, /) -> None:
                super().callback(result)
                test.publish()

        class Ends(Outcome):
            def callback(self, result: object, /) -> None:
                super().callback(result)
                confirms.fail(ChannelClosed("gone"))

        first, last = Publishes(), Ends()
        confirms.publish(first)
        confirms.publish(last)
        (third,) = self.publish()
        confirms.settle(3, True, ACK)
        self.assertEqual(first.results, ["ack"])
        self.assertEqual(last.results, ["ack"])
        self.assertEqual([type(each) for each in third.results], [ChannelClosed])
        self.assertEqual(confirms.outstanding, {})
        self.assertEqual(confirms.published, 4)


class ReturnTests(Base):
    """
    Tests for messages that come back.
    """

    def test_return_then_ack(self) -> None:
        """
        Criterion 12: a message that came back ends as returned, and only when its
        confirm has come.
        """
        sent = self.mandatory(b"a")
        error = self.give_back(b"a")
        self.assertEqual(sent.results, [])
        self.confirms.settle(1, False, ACK)
        self.assertEqual(sent.results, [error])

    def test_return_then_nack(self) -> None:
        """
        That a message came back says more than its nack.
        """
        sent = self.mandatory(b"a")
        error = self.give_back(b"a")
        self.confirms.settle(1, False, NACK)
        self.assertEqual(sent.results, [error])

    def test_return_then_end(self) -> None:
        """
        A message that came back, and whose confirm will not come, ends as returned.
        """
        sent, other = self.mandatory(b"a"), self.mandatory(b"b")
        error = self.give_back(b"a")
        reason = ChannelClosed("gone")
        self.confirms.fail(reason)
        self.assertEqual(sent.results, [error])
        self.assertEqual(other.results, [reason])

    def test_pipelined(self) -> None:
        """
        Criterion 12: 4000 mandatory messages are in flight, every other one comes
        back; acks come in any order, and some cover both kinds; exactly 2000 end as
        confirmed and 2000 as returned, each its own.
        """
        random = Random(12)
        sent = [self.mandatory(b"%d" % place) for place in range(4000)]
        errors: dict[int, Returned] = {}
        pending = list(range(1, 4001))
        for number in range(2, 4001, 2):
            errors[number] = self.give_back(b"%d" % (number - 1))
            if random.random() < 0.02:
                self.confirms.settle(number, True, ACK)
                pending = [each for each in pending if each > number]
            elif random.random() < 0.3:
                early = pending.pop(random.randrange(min(8, len(pending))))
                if early <= number:  # its return, if there is one, has come
                    self.confirms.settle(early, False, ACK)
                else:
                    pending.append(early)
        random.shuffle(pending)
        for number in pending:
            self.confirms.settle(number, False, ACK)
        for outcome in sent:
            self.assertEqual(outcome.results, [errors.get(outcome.number, "ack")])

    def test_told_apart_by_all_three(self) -> None:
        """
        The exchange, the routing key and the body tell messages apart.
        """
        one = self.mandatory(b"same")
        two = self.mandatory(b"same", exchange="y")
        three = self.mandatory(b"same", key="l")
        four = self.mandatory(b"other")
        error = self.give_back(b"same", key="l")
        self.confirms.settle(4, True, ACK)
        self.assertEqual(three.results, [error])
        for other in (one, two, four):
            self.assertEqual(other.results, ["ack"])

    def test_identical(self) -> None:
        """
        Of messages that are alike, as many end as returned as came back.
        """
        sent = [self.mandatory(b"same") for _ in range(10)]
        errors = [self.give_back(b"same") for _ in range(4)]
        self.confirms.settle(10, True, ACK)
        results = [each.results[0] for each in sent]
        self.assertEqual(results[:4], errors)
        self.assertEqual(results[4:], ["ack"] * 6)

    def test_identical_to_one_that_was_confirmed(self) -> None:
        """
        A message whose confirm has come does not take the return of a later one
        that is like it: the queue was deleted in between.
        """
        first, second = self.mandatory(b"same"), self.mandatory(b"same")
        self.confirms.settle(1, False, ACK)
        error = self.give_back(b"same")
        self.confirms.settle(2, False, ACK)
        self.assertEqual(first.results, ["ack"])
        self.assertEqual(second.results, [error])

    def test_nobody_s(self) -> None:
        """
        A return that fits no message is ignored.
        """
        sent = self.mandatory(b"a")
        self.give_back(b"b")
        self.confirms.settle(1, False, ACK)
        self.give_back(b"a")
        self.assertEqual(sent.results, ["ack"])


class CountingDict(dict[int, object]):
    """
    Counts how often it is asked.
    """

    asked = 0

    def pop(self, key: int, *default: object) -> object:
        CountingDict.asked += 1
        return super().pop(key, *default)

    def __contains__(self, key: object) -> bool:
        CountingDict.asked += 1
        return super().__contains__(key)


class CostTests(Base):
    """
    Tests for the work that a confirm makes.
    """

    def work(self, count: int, steps: list[tuple[int, bool]]) -> float:
        """
        How often the outstanding messages are looked into, per message.
        """
        confirms = self.confirms = Confirms()
        confirms.outstanding = CountingDict()  # type: ignore[assignment]
        CountingDict.asked = 0
        self.publish(count)
        for number, multiple in steps:
            confirms.settle(number, multiple, ACK)
        self.assertEqual(len(confirms.outstanding), 0)
        return CountingDict.asked / count

    def test_constant(self) -> None:
        """
        The work per message does not grow with the number of messages, whatever the
        order of their confirms.
        """
        for count in (100, 10_000):
            forward = [(number, False) for number in range(1, count + 1)]
            backward = forward[::-1]
            shuffled = Random(1).sample(forward, count)
            stuck = [*forward[1:], (count, True)]
            every_tenth = [(number, True) for number in range(10, count + 1, 10)]
            for steps in (forward, backward, shuffled, stuck, every_tenth):
                self.assertLessEqual(self.work(count, steps), 3)

    def test_late_multiple(self) -> None:
        """
        A ``multiple`` after many single confirms does not look at those again.
        """
        count = 10_000
        self.work(count, [(number, False) for number in range(1, count + 1)])
        CountingDict.asked = 0
        self.publish()
        self.confirms.settle(count + 1, True, ACK)
        self.assertLessEqual(CountingDict.asked, 3)

    def test_mandatory_messages_are_let_go(self) -> None:
        """
        Bodies are kept for no longer than the message may come back, though the
        first one's confirm never comes.
        """
        self.mandatory(b"stuck")
        for place in range(2000):
            self.mandatory(b"%d" % place)
            self.confirms.settle(self.confirms.published, False, ACK)
        self.assertLess(len(self.confirms._mandatory), 100)
        error = self.give_back(b"stuck")
        self.confirms.settle(1, False, ACK)
        self.assertEqual(self.log[-1].results, [error])


@st.composite
def _histories(draw: st.DrawFn) -> list[tuple[str, int, bool]]:
    """
    What happens on a channel: messages (some alike), returns and confirms.
    """
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ("publish", "mandatory", "mandatory", "ack", "nack", "return")
                ),
                st.integers(0, 5),
                st.booleans(),
            ),
            max_size=60,
        )
    )


class ModelTests(Base):
    """
    Tests against a broker that is simple and slow.
    """

    @settings(max_examples=300)
    @given(_histories())
    def test_random(self, history: list[tuple[str, int, bool]]) -> None:
        """
        Whatever is published, comes back and is confirmed, in whatever order, every
        message ends in the way that it did at the broker, and exactly once.
        """
        self.setUp()
        sent: list[Outcome] = []
        bodies: dict[int, bytes] = {}  # the mandatory ones that may still come back
        expected: dict[int, object] = {}
        returned: dict[int, Returned] = {}
        for what, choice, multiple in history:
            waiting = [each for each in sent if each.number not in expected]
            if what == "publish":
                sent += self.publish()
            elif what == "mandatory":
                body = b"%d" % (choice % 3)
                sent.append(self.mandatory(body))
                bodies[sent[-1].number] = body
            elif what == "return":
                # The broker returns in order: those before do not come back.
                able = [number for number in bodies if number not in expected]
                if not able:
                    continue
                number = able[choice % len(able)]
                # Those that are alike are told apart by nobody: take the first.
                number = next(each for each in able if bodies[each] == bodies[number])
                returned[number] = self.give_back(bodies[number])
                bodies = {key: body for key, body in bodies.items() if key > number}
            elif waiting:
                number = waiting[choice % len(waiting)].number
                self.confirms.settle(number, multiple, what == "ack")
                for each in waiting:
                    if each.number == number or multiple and each.number < number:
                        expected[each.number] = returned.get(each.number, what)
            self.check(sent, expected)
        reason = ChannelClosed("gone")
        self.confirms.fail(reason)
        for each in sent:
            expected.setdefault(each.number, returned.get(each.number, reason))
        self.check(sent, expected)

    def check(self, sent: list[Outcome], expected: dict[int, object]) -> None:
        """
        Compare what became of every message.
        """
        for each in sent:
            wanted = [expected[each.number]] if each.number in expected else []
            self.assertEqual(each.results, wanted)
