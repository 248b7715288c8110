# -*- test-case-name: txamqp091.test.faults.test_publisher_in_memory -*-
"""
The reliable publisher in a bad world: whatever goes wrong, in whatever order, each
message has one fate, what was confirmed is there, and nothing is left behind.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txamqp091.errors import (
    AMQPError,
    ConnectionBlocked,
    Nacked,
    NotFound,
    PreconditionFailed,
    PublisherFull,
    Returned,
)
from txamqp091.service import Publisher
from txamqp091.service.outbox import PendingPublish
from txamqp091.test.unit.service.test_outbox import STEADY
from txamqp091.test.unit.service.test_publisher import PublisherCase
from txamqp091.testing.network import Direction, Link
from txamqp091.wire.properties import Properties

#: What a message may be, and how it may fail besides being given up with the rest.
KINDS: dict[str, tuple[type[Exception], ...]] = {
    "good": (),
    "missing": (NotFound,),
    "wrong": (PreconditionFailed,),
    "lost": (Returned,),
}


class ChaosTests(PublisherCase):
    """
    Many things go wrong, at random, but the same each time.
    """

    def setUp(self) -> None:
        super().setUp()
        self.random = random.Random()
        self.fates: dict[str, object] = {}
        self.kinds: dict[str, str] = {}
        self.open: dict[str, Deferred[None]] = {}
        self.count = 0

    # -- what happens ------------------------------------------------------------------

    def offer(self, publisher: Publisher) -> None:
        """
        Publish some messages, of all kinds.
        """
        for _ in range(self.random.randrange(1, 12)):
            self.count += 1
            body = f"{self.count}"
            kind = self.random.choices([*KINDS], [20, 1, 1, 1])[0]
            self.kinds[body] = kind
            published = publisher.publish(
                "missing" if kind == "missing" else "",
                "nowhere" if kind == "lost" else "work",
                body,
                Properties(user_id="nobody") if kind == "wrong" else None,
                mandatory=self.random.random() < 0.5 or kind == "lost",
            )
            if not published.called:
                self.open[body] = published
            published.addBoth(self.ended, body, publisher)

    def ended(self, result: object, body: str, publisher: Publisher) -> None:
        """
        A message has a fate, and had none before.
        """
        self.assertNotIn(body, self.fates)
        self.open.pop(body, None)
        self.fates[body] = result.value if isinstance(result, Failure) else None
        if self.random.random() < 0.05:
            self.offer(publisher)  # from inside

    def cancel(self, publisher: Publisher) -> None:
        """
        Cancel one that has no fate.
        """
        if self.open:
            self.open[self.random.choice([*self.open])].cancel()

    def cut_link(self) -> None:
        """
        Break the connection, if there is one.
        """
        if self.endpoint.links:
            self.link.cut()

    def steps(self, publisher: Publisher) -> dict[Callable[[], object], int]:
        """
        What may happen, and how often.
        """
        broker, chance = self.broker, self.random
        return {
            lambda: self.offer(publisher): 30,
            lambda: self.clock.advance(chance.random() / 20): 30,
            lambda: self.clock.advance(0): 30,
            lambda: self.passes(chance.random() * 3): 10,
            self.cut_link: 3,
            lambda: broker.close_connections(): 1,
            lambda: broker.close_connections(541, "INTERNAL_ERROR"): 1,
            lambda: broker.close_channels(): 1,
            lambda: broker.refuse_publishes(chance.randrange(1, 30)): 2,
            broker.hold_confirms: 4,
            broker.release_confirms: 8,
            broker.block: 1,
            broker.unblock: 3,
            lambda: self.cancel(publisher): 3,
            lambda: setattr(self.endpoint, "refusing", chance.random() < 0.3): 2,
        }

    # -- what holds --------------------------------------------------------------------

    def check(self, resends: bool) -> None:
        """
        Look at the fates.
        """
        there = {body.decode() for body in self.bodies()}
        for body, fate in self.fates.items():
            kind = self.kinds[body]
            if fate is None:
                self.assertIn(kind, ("good", "lost"), body)
                if kind == "good":
                    self.assertIn(body, there)
                continue
            # A channel that is closed for no reason may be blamed on the only message.
            allowed = (
                *KINDS[kind],
                PublisherFull,
                ConnectionBlocked,
                CancelledError,
                Nacked,
                PreconditionFailed,
            )
            if not resends:
                allowed = (*allowed, AMQPError)
            self.assertTrue(
                isinstance(fate, allowed) or getattr(fate, "reply_code", 0) == 541,
                f"{body} {kind}: {fate!r}",
            )
        self.assertEqual(set(self.fates), set(self.kinds))

    def live(self, seed: int, resends: bool) -> None:
        """
        One life of a publisher.
        """
        self.random.seed(seed)
        publisher = self.publisher(
            on_loss="resend" if resends else "fail",
            limit=self.random.choice([5, 50, 1000]),
            window=self.random.choice([1, 3, 20]),
            blocked_timeout=self.random.choice([None, 0.5, 5.0]),
        )
        steps = self.steps(publisher)
        for step in self.random.choices([*steps], [*steps.values()], k=80):
            step()
        self.endpoint.refusing = False
        self.broker.unblock()
        self.broker.release_confirms()
        self.broker.refuse_publishes(0)
        self.passes(40)
        self.check(resends)
        self.assertFlat(publisher)
        channels = sum(len(each.channels) for each in self.broker.sessions)
        self.assertEqual(channels, 1)
        self.successResultOf(publisher.stop())
        self._stop_all()
        self.services.clear()
        self.broker.delete_queue("work")
        self.fates.clear()
        self.kinds.clear()

    def test_resend(self) -> None:
        """
        A hundred lives of a publisher that sends again.
        """
        for seed in range(100):
            self.live(seed, resends=True)

    def test_fail(self) -> None:
        """
        And of one that does not.
        """
        for seed in range(1000, 1100):
            self.live(seed, resends=False)


class EveryByteTests(PublisherCase):
    """
    The link is cut after each byte, in both directions, over and over.
    """

    def run_with(self, direction: Direction, place: int, **options: Any) -> int:
        """
        Publish ten messages while each connection is cut after so many bytes, from the
        second one on a few later each time.

        :returns: how many connections there were.
        """
        if self.services:
            self._stop_all()
            self.services.clear()
        self.broker.delete_queue("work") if "work" in self.broker.queues() else None
        links = len(self.endpoint.links)

        def spoil(link: Link) -> None:
            more = len(self.endpoint.links) - links - 1
            link.cut_after[direction] = place + 200 * more

        self.endpoint.refusing = False
        self.endpoint.spoil = spoil
        publisher = self.publisher(window=4, **options)
        published = self.publish(publisher, 10)
        fates: list[object] = [None] * 10
        for number, each in enumerate(published):
            each.addBoth(self.note, fates, number)
        self.passes(60, 1.0)
        self.endpoint.spoil = None
        self.cut()
        self.passes(20, 1.0)
        self.assertNotIn(None, fates)
        there = set(self.bodies())
        for number, fate in enumerate(fates):
            if fate == "confirmed":
                self.assertIn(b"%d" % number, there)
            else:
                self.assertEqual(options.get("on_loss"), "fail")
        self.assertFlat(publisher)
        return len(self.endpoint.links) - links

    def note(self, result: object, fates: list[object], number: int) -> None:
        """
        A message has a fate, and had none before.
        """
        self.assertIsNone(fates[number])
        ok = not isinstance(result, Failure)
        fates[number] = "confirmed" if ok else "failed"

    def test_up(self) -> None:
        """
        What we say is cut: all is confirmed in the end.
        """
        runs = [self.run_with(Direction.UP, n) for n in range(300, 1300, 11)]
        self.assertGreater(sum(runs), 2 * len(runs))

    def test_down(self) -> None:
        """
        What the broker says is cut: all is confirmed in the end.
        """
        runs = [self.run_with(Direction.DOWN, n) for n in range(400, 800, 3)]
        self.assertGreater(sum(runs), 2 * len(runs))

    def test_fail(self) -> None:
        """
        When nothing is sent again, what was confirmed is there.
        """
        runs = [
            self.run_with(way, n, on_loss="fail")
            for way in Direction
            for n in range(300, 1000, 11)
        ]
        self.assertGreater(sum(runs), 2 * len(runs))


class MemoryTests(PublisherCase):
    """
    Nothing is left behind.
    """

    def test_flat(self) -> None:
        """
        After a hundred losses, nacks and refusals there are no more objects than after
        fifty: Twisted's log has by then the 200 entries that it keeps.
        """
        publisher = self.publisher(nacked_again=STEADY)
        counts = []
        for number in range(1, 101):
            self.broker.refuse_publishes(1)
            published = self.publish(publisher, 3)
            if number % 5 == 0:
                published.append(publisher.publish("missing", "", ""))
                published[-1].addErrback(lambda _: None)
            self.turn(3)
            self.cut()
            self.passes(10)
            self.assertDone(published)
            del published
            self.broker.published.clear()
            self.broker.delete_queue("work")
            self.broker.declare_queue("work")
            del self.endpoint.links[:-1]
            if number % 50 == 0:
                gc.collect()
                counts.append(len(gc.get_objects()))
        self.assertFlat(publisher)
        self.assertLess(counts[1] - counts[0], 50)
        everything = gc.get_objects()
        pending = [each for each in everything if isinstance(each, PendingPublish)]
        self.assertEqual(pending, [])
