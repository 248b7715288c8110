# -*- test-case-name: txamqp091.test.unit.client.test_flow -*-
"""
Tests for `txamqp091._flow`, by itself: who may publish, and who keeps us from reading.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._flow import Flow
from txamqp091.errors import ConnectionBlocked, PublisherFull


class Publisher:
    """
    Something that publishes one message when it may, and has so many.
    """

    def __init__(self, case: FlowTestCase, name: str, messages: int) -> None:
        self.case = case
        self.name = name
        self.left = messages
        case.flow.wake(self)

    def release(self) -> None:
        while self.left and self.case.flow.may_publish:
            self.left -= 1
            self.case.published.append(self.name)
            self.case.after_each()
        if self.left:
            self.case.flow.wake(self)


class FlowTestCase(SynchronousTestCase):
    """
    A flow that notes what it asks for.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.published: list[str] = []
        self.flow = Flow(
            self.clock,
            lambda: self.asked.append("stop"),
            lambda: self.asked.append("read"),
        )

    def after_each(self) -> None:
        """
        What happens when a message has been published.
        """


class PublishingTests(FlowTestCase):
    """
    Outward.
    """

    def test_release(self) -> None:
        """
        Those who wait are released, in their order, each once.
        """
        self.assertFalse(self.flow.may_publish)
        for name in "abc":
            Publisher(self, name, 2)
        self.flow.allow(True)
        self.assertEqual("".join(self.published), "aabbcc")
        self.flow.allow(True)
        self.assertEqual(len(self.published), 6)

    def test_nothing_to_wait_for(self) -> None:
        """
        While messages may leave, nobody waits.
        """
        self.flow.allow(True)
        publisher = Publisher(self, "a", 1)
        self.flow.allow(True)
        self.assertEqual(publisher.left, 1)

    def test_turns(self) -> None:
        """
        When there is room for one message at a time, the publishers take turns.
        """
        self.after_each = lambda: self.flow.allow(False)  # type: ignore[method-assign]
        for name in "abc":
            Publisher(self, name, 2)
        for _ in range(6):
            self.flow.allow(True)
        self.assertEqual("".join(self.published), "abcabc")

    def test_end(self) -> None:
        """
        After the end nothing may be published, also if it comes in the middle.
        """
        self.after_each = self.flow.end  # type: ignore[method-assign]
        for name in "abc":
            Publisher(self, name, 1)
        self.flow.allow(True)
        self.flow.allow(True)
        self.assertEqual(self.published, ["a"])
        self.assertFalse(self.flow.may_publish)


class ReadingTests(FlowTestCase):
    """
    Inward.
    """

    def test_hold(self) -> None:
        """
        Reading stops with the first who holds, and goes on in the turn after the
        last has released.
        """
        self.flow.hold("a", 1)
        self.flow.hold("a", 1)
        self.flow.hold("b", 1)
        self.assertEqual((self.asked, self.flow.reading), (["stop"], False))
        self.flow.release("a")
        self.clock.advance(0)
        self.assertFalse(self.flow.reading)
        self.flow.release("b")
        self.assertFalse(self.flow.reading)
        self.clock.advance(0)
        self.assertEqual((self.asked, self.flow.reading), (["stop", "read"], True))

    def test_release_stranger(self) -> None:
        """
        Who does not hold may release.
        """
        self.flow.release("a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_held_again(self) -> None:
        """
        Who holds again before reading has gone on keeps it from going on.
        """
        self.flow.hold("a", 1)
        self.flow.release("a")
        self.flow.hold("b", 1)
        self.clock.advance(0)
        self.assertFalse(self.flow.reading)
        self.flow.release("b")
        self.clock.advance(0)
        self.assertEqual(self.asked, ["stop", "read"])

    def test_release_channel(self) -> None:
        """
        With a channel, all who hold on its behalf release.
        """
        self.flow.hold("a", 1)
        self.flow.hold("b", 2)
        self.flow.hold("c", 1)
        self.flow.release_channel(1)
        self.clock.advance(0)
        self.assertFalse(self.flow.reading)
        self.flow.release_channel(2)
        self.clock.advance(0)
        self.assertTrue(self.flow.reading)

    def test_end(self) -> None:
        """
        After the end nobody holds: the peer's last words are read.
        """
        self.flow.hold("a", 1)
        self.flow.end()
        self.flow.hold("b", 1)
        self.clock.advance(0)
        self.assertTrue(self.flow.reading)

    def test_stop(self) -> None:
        """
        When there is nothing left to read, nothing is read, and no timer is left.
        """
        self.flow.hold("a", 1)
        self.flow.end()
        self.flow.stop()
        self.flow.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.asked, ["stop"])


class WaitingTests(FlowTestCase):
    """
    What waits to be published.
    """

    def fill(self, size: int) -> int:
        """
        Have messages wait, until no more may.

        :returns: how many.
        """
        count = 0
        while True:
            try:
                self.flow.keep(size)
            except (ConnectionBlocked, PublisherFull):
                return count
            count += 1

    def test_bodies(self) -> None:
        """
        Bodies and properties count; fewer may wait while the broker blocks.
        """
        self.assertEqual(self.fill((1 << 20) - 512), 256)
        self.assertRaises(PublisherFull, self.flow.keep, 0)
        self.flow.let_go(1)
        self.flow.keep(0)
        self.flow.let_go(self.flow.waiting)
        self.flow.blocked = "low on memory"
        self.assertEqual(self.fill((1 << 20) - 512), 64)
        self.assertRaises(ConnectionBlocked, self.flow.keep, 0)
        self.flow.blocked = None
        self.flow.keep(0)

    def test_empty(self) -> None:
        """
        Messages without a body count for something.
        """
        self.flow.blocked = "low on memory"
        self.assertEqual(self.fill(0), 131072)
