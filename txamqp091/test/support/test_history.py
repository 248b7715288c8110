# -*- test-case-name: txamqp091.test.support.test_history -*-
"""
Tests for who judges histories (criterion 22): those that a queue may have are let
pass, and each kind of those that it may not have is refused, for the right reason.
"""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.test.support.history import Event, History, Kind, Verdict, check, marks

AGAIN = marks(True, False)
COPY = marks(False, True)


def invoked(message: str, time: float = 0.0, queue: str = "work") -> Event:
    """
    A message is published.
    """
    return Event(time, Kind.INVOKED, message.partition(":")[0], message, queue)


def ended(message: str, kind: Kind = Kind.CONFIRMED, time: float = 1.0) -> Event:
    """
    Its publish has ended.
    """
    return Event(time, kind, message.partition(":")[0], message)


def published(message: str, time: float = 0.0, queue: str = "work") -> list[Event]:
    """
    A message is published, and confirmed.
    """
    return [
        invoked(message, time, queue),
        ended(message, time=time + 1),
    ]


def delivered(
    message: str, time: float = 2.0, detail: str = "", who: str = "one"
) -> Event:
    """
    It has come.
    """
    return Event(time, Kind.DELIVERED, who, message, detail)


def acked(message: str, time: float = 3.0, detail: str = "") -> Event:
    """
    It is acknowledged.
    """
    return Event(time, Kind.ACKED, "one", message, detail)


def remains(message: str, time: float = 99.0, detail: str = "") -> Event:
    """
    It is still in the queue.
    """
    return Event(time, Kind.REMAINS, "work", message, detail)


def fault(name: str, begin: float, end: float) -> list[Event]:
    """
    Something was broken for a while.
    """
    return [
        Event(begin, Kind.BROKEN, "nemesis", "node1", name),
        Event(end, Kind.MENDED, "nemesis", "node1", name),
    ]


class CheckCase(SynchronousTestCase):
    """
    A test case with histories.
    """

    def assertRefused(self, rule: str, *events: Event, message: str = "a:1") -> None:
        """
        A history is refused for one reason, which names the message.
        """
        verdict = check(events)
        self.assertEqual([each[:2] for each in verdict.violations], [(rule, message)])

    def assertPasses(self, *events: Event) -> Verdict:
        """
        A history is let pass.
        """
        verdict = check(events)
        self.assertEqual(verdict.violations, [])
        return verdict


class OutcomeTests(CheckCase):
    """
    What was published, and what has come.
    """

    def test_good(self) -> None:
        """
        Published, confirmed, delivered, acknowledged: nothing to say.
        """
        verdict = self.assertPasses(*published("a:1"), delivered("a:1"), acked("a:1"))
        self.assertEqual(verdict.outcomes, {"confirmed": 1})
        self.assertEqual(
            (verdict.seen, verdict.duplicates, verdict.recovered), (1, 0, 0)
        )
        self.assertEqual((verdict.acked, verdict.judged, verdict.in_order), (1, 1, 1))

    def test_nothing(self) -> None:
        """
        No history is a good one.
        """
        self.assertPasses()

    def test_lost(self) -> None:
        """
        A confirmed message that was neither delivered nor left is lost.
        """
        self.assertRefused("lost", *published("a:1"))
        self.assertEqual(check(published("a:1")).lost, 1)

    def test_lost_in_a_fault(self) -> None:
        """
        No fault is an excuse for that.
        """
        self.assertRefused("lost", *published("a:1"), *fault("kill", 0, 9))

    def test_remains(self) -> None:
        """
        What is still in its queue is not lost.
        """
        self.assertPasses(*published("a:1"), remains("a:1"))

    def test_not_confirmed(self) -> None:
        """
        What was not confirmed need not come, and what may have arrived may come.
        """
        for kind in (Kind.NACKED, Kind.FAILED, Kind.UNKNOWN):
            self.assertPasses(invoked("a:1"), ended("a:1", kind))
        for kind in (Kind.NACKED, Kind.UNKNOWN):
            events = invoked("a:1"), ended("a:1", kind), delivered("a:1")
            self.assertEqual(self.assertPasses(*events).recovered, 1)

    def test_came_though_failed(self) -> None:
        """
        What was said to have never left must not come.
        """
        self.assertRefused(
            "unexpected",
            invoked("a:1"),
            ended("a:1", Kind.FAILED),
            delivered("a:1"),
        )

    def test_unexpected(self) -> None:
        """
        What nobody has published must not come, nor be found in the end.
        """
        self.assertRefused("unexpected", delivered("a:1"))
        self.assertRefused("unexpected", remains("a:1"))
        self.assertRefused("unexpected", delivered("?"), message="?")

    def test_too_early(self) -> None:
        """
        Nor must a message come before it was published.
        """
        self.assertRefused("unexpected", *published("a:1", 5.0), delivered("a:1", 4.0))

    def test_early(self) -> None:
        """
        It may come before its confirm does.
        """
        self.assertPasses(*published("a:1"), delivered("a:1", 0.5))

    def test_unresolved(self) -> None:
        """
        A publish that never ends is one too many.
        """
        self.assertRefused("unresolved", invoked("a:1"))
        self.assertRefused("unresolved", invoked("a:1"), delivered("a:1"))

    def test_ended_twice(self) -> None:
        """
        So is one that ends twice.
        """
        self.assertRefused(
            "ended twice",
            *published("a:1"),
            ended("a:1", Kind.UNKNOWN, 1.5),
            delivered("a:1"),
        )


class DeletionTests(CheckCase):
    """
    Queues that are deleted.
    """

    gone = Event(10.0, Kind.DELETED, "nemesis", "work")

    def test_before(self) -> None:
        """
        What was published before its queue was deleted may have gone with it, also when
        it was confirmed later.
        """
        verdict = self.assertPasses(*published("a:1", 9.5), self.gone)
        self.assertEqual((verdict.forgiven, verdict.lost), (1, 0))

    def test_after(self) -> None:
        """
        What was published afterwards may not.
        """
        self.assertRefused("lost", *published("a:1", 10.5), self.gone)

    def test_another(self) -> None:
        """
        Nor may what is in another queue.
        """
        self.assertRefused("lost", *published("a:1", 1.0, "other"), self.gone)


class AckTests(CheckCase):
    """
    What was acknowledged.
    """

    def test_again(self) -> None:
        """
        A message that was acknowledged in quiet times must not come again, marked or
        not.
        """
        self.assertRefused(
            "again after its ack",
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            delivered("a:1", 30.0, AGAIN),
        )

    def test_remains(self) -> None:
        """
        Nor may it be in the queue in the end.
        """
        self.assertRefused(
            "again after its ack",
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            remains("a:1", 30.0, AGAIN),
        )

    def test_in_flight(self) -> None:
        """
        When something breaks soon afterwards, or is broken, the acknowledgement may not
        have arrived: then it may come again, whenever that is.
        """
        for begin, end in ((4.0, 5.0), (1.0, 9.0), (0.5, 2.0)):
            verdict = self.assertPasses(
                *published("a:1"),
                delivered("a:1"),
                acked("a:1", 3.0),
                *fault("reset", begin, end),
                delivered("a:1", 30.0, AGAIN),
                acked("a:1", 31.0, AGAIN),
            )
            self.assertEqual((verdict.duplicates, verdict.judged), (1, 1))

    def test_lost_connection(self) -> None:
        """
        The loss of a connection is such a time, whatever the reason.
        """
        self.assertPasses(
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            Event(3.1, Kind.LOST, "one", "", "ConnectionLost"),
            delivered("a:1", 30.0, AGAIN),
        )

    def test_other_faults(self) -> None:
        """
        What breaks long before or afterwards is no excuse.
        """
        for begin, end in ((6.0, 9.0), (0.1, 0.5)):
            self.assertRefused(
                "again after its ack",
                *published("a:1"),
                delivered("a:1"),
                acked("a:1"),
                *fault("kill", begin, end),
                delivered("a:1", 30.0, AGAIN),
            )

    def test_never_mended(self) -> None:
        """
        A fault that does not end lasts until the end.
        """
        broken, _ = fault("hole", 1, 1)
        self.assertPasses(
            *published("a:1"),
            delivered("a:1"),
            acked("a:1", 50.0),
            broken,
            delivered("a:1", 60.0, AGAIN),
        )

    def test_second_ack(self) -> None:
        """
        It is the last acknowledgement that counts: that of the second delivery.
        """
        self.assertRefused(
            "again after its ack",
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            *fault("reset", 3.1, 3.2),
            delivered("a:1", 20.0, AGAIN),
            acked("a:1", 21.0, AGAIN),
            delivered("a:1", 30.0, AGAIN),
        )

    def test_stale(self) -> None:
        """
        One that was not sent counts for nothing.
        """
        self.assertPasses(
            *published("a:1"),
            delivered("a:1"),
            Event(3.0, Kind.STALE, "one", "a:1"),
            delivered("a:1", 30.0, AGAIN),
        )

    def test_copies(self) -> None:
        """
        What was published again is another message, as far as the broker knows.
        """
        verdict = self.assertPasses(
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            delivered("a:1", 30.0, COPY),
            acked("a:1", 31.0, COPY),
        )
        self.assertEqual((verdict.duplicates, verdict.copies), (1, 1))

    def test_first_after_copy(self) -> None:
        """
        A node that was frozen may come with the first copy after the second; but the
        first one comes once.
        """
        events = [
            *published("a:1"),
            delivered("a:1", 2.0, COPY),
            acked("a:1", 2.5, COPY),
            delivered("a:1", 20.0),
            acked("a:1", 20.5),
        ]
        self.assertPasses(*events)
        self.assertRefused(
            "again after its ack", *events, delivered("a:1", 30.0, AGAIN)
        )

    def test_unmarked(self) -> None:
        """
        What comes twice says so, one way or the other.
        """
        self.assertRefused(
            "unmarked", *published("a:1"), delivered("a:1"), delivered("a:1", 4.0)
        )
        self.assertPasses(
            *published("a:1"), delivered("a:1"), delivered("a:1", 4.0, AGAIN)
        )


class OrderTests(CheckCase):
    """
    The order of messages.
    """

    def test_order(self) -> None:
        """
        A consumer sees what one publisher has published in that order.
        """
        self.assertRefused(
            "out of order",
            *published("a:1"),
            *published("a:2", 0.1),
            delivered("a:2", 2.0),
            delivered("a:1", 2.1),
        )

    def test_numbers(self) -> None:
        """
        The order is that of numbers, not that of letters.
        """
        self.assertPasses(
            *published("a:9"),
            *published("a:10", 0.1),
            delivered("a:9", 2.0),
            delivered("a:10", 2.1),
        )

    def test_others(self) -> None:
        """
        Between two publishers, and between two consumers, there is none.
        """
        self.assertPasses(
            *published("a:1"),
            *published("a:2", 0.1),
            *published("b:0", 0.1),
            delivered("b:0", 2.0),
            delivered("a:2", 2.0),
            delivered("a:1", 2.1, who="two"),
        )

    def test_doubtful(self) -> None:
        """
        What was delivered again, or published again, or may have been, has none.
        """
        others = *published("a:1"), *published("a:2", 0.1), delivered("a:2", 2.0)
        self.assertPasses(*others, delivered("a:1", 2.1, AGAIN))
        self.assertPasses(*others, delivered("a:1", 2.1, COPY))
        self.assertPasses(*others, delivered("a:1", 2.1, COPY), delivered("a:1", 2.2))
        self.assertPasses(
            *others,
            invoked("a:0"),
            ended("a:0", Kind.UNKNOWN),
            delivered("a:0", 2.1),
            delivered("a:1", 2.1, AGAIN),
        )


class MeasureTests(CheckCase):
    """
    What is measured besides.
    """

    def test_pauses(self) -> None:
        """
        The longest time between two confirms of a publisher, by what was wrong then.
        """
        verdict = self.assertPasses(
            *(
                event
                for number, time in enumerate((0.0, 0.5, 3.5, 3.6, 5.6, 5.61))
                for event in (
                    *published(f"a:{number}", time),
                    delivered(f"a:{number}", time + 1.5),
                )
            ),
            *fault("kill", 2.0, 2.1),
            *fault("reset", 1.6, 1.7),
        )
        rounded = {name: round(each, 2) for name, each in verdict.pauses.items()}
        self.assertEqual(rounded, {"": 2.0, "kill": 3.0, "reset": 3.0})
        self.assertEqual(verdict.faults, {"kill": 1, "reset": 1})

    def test_told(self) -> None:
        """
        What is said about a violation has the whole course of its message.
        """
        clock = Clock()
        history = History(clock.seconds)
        history.add(Kind.INVOKED, "a", "a:1", "work")
        clock.advance(1)
        history.add(Kind.CONFIRMED, "a", "a:1")
        self.assertEqual(
            check(history.events).told(history),
            "1 x lost\n"
            "  a:1: confirmed, and nowhere\n"
            "    0.000 a invoked work\n"
            "    1.000 a confirmed",
        )

    def test_sorted(self) -> None:
        """
        The lines of a history may be in any order: their times count.
        """
        events = [
            *published("a:1"),
            delivered("a:1"),
            acked("a:1"),
            delivered("a:1", 30.0, AGAIN),
        ]
        for _ in range(10):
            random.Random(22).shuffle(events)
            self.assertRefused("again after its ack", *events)


class SpoiltTests(CheckCase):
    """
    A long history of a good queue, in which one thing is spoilt.
    """

    def setUp(self) -> None:
        """
        Five hundred messages of five publishers, with a fault in the middle, at which
        ten messages are delivered once more.
        """
        self.random = random.Random(22)
        self.events = fault("kill", 100.0, 110.0)
        for number in range(100):
            for name in "abcde":
                message, time = f"{name}:{number}", number * 2.0
                self.events += published(message, time)
                self.events.append(delivered(message, time + 1.0))
                self.events.append(acked(message, time + 1.0))
                if name < "c" and 100 <= time < 110:
                    self.events.append(delivered(message, 120.0, AGAIN))
                    self.events.append(acked(message, 120.0, AGAIN))

    def pick(self, kind: Kind) -> Event:
        """
        An event of the quiet times, of that kind.
        """
        quiet = [
            each
            for each in self.events
            if each.kind is kind and not 90 < each.time < 125
        ]
        return self.random.choice(quiet)

    def test_good(self) -> None:
        """
        It is let pass as it is.
        """
        verdict = self.assertPasses(*self.events)
        self.assertEqual((verdict.seen, verdict.duplicates), (500, 10))

    def test_spoilt(self) -> None:
        """
        Any delivery that is missing, invented, or repeated is found; so is any confirm
        that is missing or repeated, and any message that was never published.
        """
        for _ in range(20):
            gone = self.pick(Kind.DELIVERED)
            others = [
                each
                for each in self.events
                if each.message != gone.message
                or each.kind not in (Kind.DELIVERED, Kind.ACKED)
            ]
            self.assertRefused("lost", *others, message=gone.message)
            late = gone._replace(time=999.0, detail=AGAIN)
            self.assertRefused(
                "again after its ack", *self.events, late, message=gone.message
            )
            invented = gone._replace(message="f:1")
            self.assertRefused("unexpected", *self.events, invented, message="f:1")
            end = self.pick(Kind.CONFIRMED)
            others = [each for each in self.events if each is not end]
            self.assertRefused("unresolved", *others, message=end.message)
            self.assertRefused("ended twice", *self.events, end, message=end.message)
            begin = self.pick(Kind.INVOKED)
            others = [each for each in self.events if each is not begin]
            self.assertRefused("unexpected", *others, message=begin.message)
