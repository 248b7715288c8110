# -*- test-case-name: txamqp091.test.unit.service.test_publisher -*-
"""
Tests for `txamqp091.service.publisher`: what is taken, what waits, what fails at once,
and how it ends.  What is lost on its way is in `test_outbox`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.errors import (
    AuthenticationFailed,
    ConnectionBlocked,
    ConnectionClosed,
    EncodeError,
    PublisherFull,
    Returned,
)
from txamqp091.service.client import AMQPClientService
from txamqp091.service.publisher import Publisher
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.wire.properties import EMPTY, Properties

GIVES_UP = RetryPolicy(initial_delay=1.0, jitter=0.0, permanent="fail")


class PublisherCase(ServiceCase):
    """
    A test case with a queue, a service and a publisher.
    """

    client: AMQPClientService

    def publisher(self, start: bool = True, **options: Any) -> Publisher:
        """
        A publisher, over a service of its own.
        """
        self.broker.declare_queue("work")
        self.client = self.service(start=start)
        publisher = Publisher(self.client, **options)
        self.turn()
        return publisher

    def publish(self, publisher: Publisher, count: int) -> list[Deferred[None]]:
        """
        Publish messages to the queue, with their numbers for bodies.
        """
        return [publisher.publish("", "work", f"{n}") for n in range(count)]

    def prove(self, publisher: Publisher) -> None:
        """
        Have the first message of a channel answered for: until then the others wait.
        """
        published = publisher.publish("", "nowhere", "")
        self.turn()
        self.assertDone([published])
        self.broker.published.clear()

    def bodies(self) -> list[bytes]:
        """
        What is in the queue.
        """
        return [each.body for each in self.broker.queue("work").messages]

    def assertDone(self, deferreds: list[Deferred[None]]) -> None:
        """
        All were taken.
        """
        for each in deferreds:
            self.assertIsNone(self.successResultOf(each))

    def assertFlat(self, publisher: Publisher) -> None:
        """
        Nothing is kept.
        """
        self.assertEqual(
            (publisher.outstanding, publisher.size, publisher.unconfirmed), (0, 0, 0)
        )


class PublishTests(PublisherCase):
    """
    While there is a connection.
    """

    def test_confirmed(self) -> None:
        """
        A message is taken when the broker has confirmed it.
        """
        publisher = self.publisher()
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        self.turn()
        for each in published:
            self.assertNoResult(each)
        self.assertEqual((publisher.outstanding, publisher.unconfirmed), (3, 3))
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])
        self.assertEqual(publisher.confirmed, 4)
        self.assertFlat(publisher)

    def test_returned(self) -> None:
        """
        A mandatory message without a queue has failed, and one that is not mandatory
        has not.
        """
        publisher = self.publisher()
        strict = publisher.publish("", "nowhere", "a", mandatory=True)
        lax = publisher.publish("", "nowhere", "b")
        good = publisher.publish("", "work", "c", mandatory=True)
        self.turn()
        error = self.failureResultOf(strict, Returned).value
        self.assertEqual(error.message.body, b"a")
        self.assertDone([lax, good])
        self.assertEqual(publisher.failures, 1)
        self.assertFlat(publisher)

    def test_cannot_be_sent(self) -> None:
        """
        What AMQP cannot carry fails at once, and costs nothing.
        """
        publisher = self.publisher(start=False)
        wrong: Any = {"message_id": "x"}
        worse: Any = {"a": object()}
        for failing, kind in (
            (publisher.publish("", "x" * 256, ""), EncodeError),
            (publisher.publish("", "work", "\udc00"), EncodeError),
            (publisher.publish("", "work", 3), TypeError),
            (publisher.publish("", "work", "", wrong), TypeError),
            (
                publisher.publish("", "work", "", Properties(headers=worse)),
                EncodeError,
            ),
        ):
            self.failureResultOf(failing, kind)
        self.assertFlat(publisher)

    def test_too_many_properties(self) -> None:
        """
        What does not fit into this connection's frames fails alone.
        """
        publisher = self.publisher()
        large = Properties(headers={"a": "x" * 140_000})
        first = publisher.publish("", "work", "", large)
        published = self.publish(publisher, 2)
        self.turn()
        self.failureResultOf(first, EncodeError)
        self.assertDone(published)
        self.assertFlat(publisher)

    def test_message_ids(self) -> None:
        """
        A publisher that sends again gives names to messages that have none, and one
        that does not leaves them alone.
        """
        publisher = self.publisher()
        self.publish(publisher, 2)
        publisher.publish("", "work", "", Properties(message_id="mine", priority=3))
        raw = Properties.from_wire(b"\x00\x80\xff")
        publisher.publish("", "work", "raw", raw)
        self.turn()
        first, second, third, fourth = self.broker.queue("work").messages
        ids = {first.properties.message_id, second.properties.message_id}
        self.assertEqual(len(ids - {None}), 2)
        self.assertEqual(third.properties, Properties(message_id="mine", priority=3))
        self.assertEqual(fourth.properties.encoded, raw.encoded)
        for again in (third.properties, EMPTY, EMPTY, Properties(priority=3), raw):
            publisher.publish("", "work", "", again)
        self.turn()
        kept = [each.properties for each in self.broker.queue("work").messages[4:]]
        self.assertEqual([kept[0], kept[-1]], [third.properties, raw])
        self.assertEqual(
            [each.replace(message_id=None) for each in kept[1:-1]],
            [EMPTY, EMPTY, Properties(priority=3)],
        )
        ids |= {each.message_id for each in kept[1:-1]}
        self.assertEqual(len(ids - {None}), 5)
        other = Publisher(self.client, on_loss="fail")
        self.turn()
        other.publish("", "work", "")
        self.turn()
        last = self.broker.queue("work").messages[-1]
        self.assertIsNone(last.properties.message_id)

    def test_wrong_limits(self) -> None:
        """
        Limits are numbers, and choices are those that there are.
        """
        service = self.service(start=False)
        for wrong in ({"limit": 0}, {"size_limit": 0}, {"window": 0}):
            with self.assertRaises(ValueError):
                Publisher(service, **wrong)  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            Publisher(service, on_loss="hope")  # type: ignore[arg-type]


class WaitingTests(PublisherCase):
    """
    While there is no connection, or no more may leave.
    """

    def test_before_the_connection(self) -> None:
        """
        Messages wait for the first connection, and leave in order.
        """
        publisher = self.publisher(start=False)
        published = self.publish(publisher, 5)
        self.passes(100)
        self.assertEqual((publisher.outstanding, publisher.unconfirmed), (5, 0))
        self.client.startService()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"0", b"1", b"2", b"3", b"4"])
        self.assertFalse(
            any("x-republished" in (each.properties.headers or {})
                for each in self.broker.queue("work").messages)
        )  # fmt: skip

    def test_window(self) -> None:
        """
        No more messages are unconfirmed than there may be; the others wait, in order.
        """
        publisher = self.publisher(window=3)
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, 10)
        self.turn()
        self.assertEqual((publisher.outstanding, publisher.unconfirmed), (10, 3))
        self.assertEqual(len(self.broker.published), 3)
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"%d" % n for n in range(10)])

    def test_publish_from_a_callback(self) -> None:
        """
        Whoever publishes when he hears of a confirm, does so in order.
        """
        publisher = self.publisher(window=2)
        published = self.publish(publisher, 4)
        again: list[Deferred[None]] = []

        def publish_again(_: None, number: int) -> None:
            again.append(publisher.publish("", "work", f"again {number}"))

        for number, each in enumerate(published):
            each.addCallback(publish_again, number)
        self.turn()
        self.assertDone(again)
        self.assertEqual(len(again), 4)
        self.assertEqual(
            self.bodies(),
            [b"0", b"1", b"2", b"3", *(b"again %d" % n for n in range(4))],
        )
        self.assertFlat(publisher)

    def test_full(self) -> None:
        """
        No more messages are kept than there may be: the next one fails at once.
        """
        publisher = self.publisher(start=False, limit=3)
        published = self.publish(publisher, 3)
        self.assertFalse(publisher.has_room)
        self.failureResultOf(publisher.publish("", "work", "4"), PublisherFull)
        self.assertEqual(publisher.outstanding, 3)
        self.client.startService()
        self.turn()
        self.assertDone(published)
        self.assertTrue(publisher.has_room)

    def test_full_of_bytes(self) -> None:
        """
        Nor more bytes; the message that goes beyond is the last one.
        """
        publisher = self.publisher(start=False, size_limit=1000, on_loss="fail")
        large = publisher.publish("", "work", bytes(2000))
        self.failureResultOf(publisher.publish("", "work", b""), PublisherFull)
        self.client.startService()
        self.turn()
        self.assertDone([large])
        self.broker.hold_confirms()
        most = publisher.publish("", "work", bytes(900))
        more = publisher.publish("", "work", bytes(200))
        self.failureResultOf(publisher.publish("", "work", b""), PublisherFull)
        self.broker.release_confirms()
        self.turn()
        self.assertDone([most, more])
        self.assertFlat(publisher)

    def test_room(self) -> None:
        """
        Those who wait for room are told one after the other, as far as there is any.
        """
        publisher = self.publisher(limit=2)
        self.broker.hold_confirms()
        self.successResultOf(publisher.when_room())
        published = self.publish(publisher, 2)
        told: list[int] = []
        waiting = [publisher.when_room() for _ in range(4)]
        waiting[0].cancel()
        self.failureResultOf(waiting.pop(0), CancelledError)

        def next_one(_: None, number: int) -> None:
            told.append(number)
            published.append(publisher.publish("", "work", f"next {number}"))

        for number, each in enumerate(waiting):
            each.addCallback(next_one, number)
        self.turn()
        self.assertEqual(told, [])
        self.broker.release_confirms()
        self.turn()
        self.assertEqual(told, [0, 1, 2])
        self.assertDone(published)

    def test_cancelled(self) -> None:
        """
        A message that waits and is cancelled does not leave, and frees its place; one
        that has left counts until it is answered for.
        """
        publisher = self.publisher(window=1)
        self.broker.hold_confirms()
        left, waits, last = self.publish(publisher, 3)
        self.turn()
        for each in (left, waits):
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.assertEqual(publisher.outstanding, 2)
        self.broker.release_confirms()
        self.turn()
        self.assertDone([last])
        self.assertEqual(self.bodies(), [b"0", b"2"])
        self.assertFlat(publisher)


class BlockedTests(PublisherCase):
    """
    While the broker blocks.
    """

    def test_waits(self) -> None:
        """
        Messages wait while the broker blocks, and leave afterwards, in order.
        """
        publisher = self.publisher()
        self.broker.block()
        self.turn()
        published = self.publish(publisher, 3)
        self.passes(50)
        self.assertEqual(publisher.unconfirmed, 0)
        self.broker.unblock()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])

    def test_limit(self) -> None:
        """
        Each message waits for so long and no longer: the error says why, and whether
        it had left.
        """
        publisher = self.publisher(blocked_timeout=10)
        self.broker.hold_confirms()
        left = publisher.publish("", "work", "left")
        self.turn()
        self.broker.block("low on disk")
        self.turn()
        early = publisher.publish("", "work", "early")
        self.passes(5)
        late = publisher.publish("", "work", "late")
        self.passes(4)
        self.assertNoResult(early)
        self.passes(1)
        for failed, sent in ((left, True), (early, False)):
            error = self.failureResultOf(failed, ConnectionBlocked).value
            self.assertEqual((error.reason, error.sent), ("low on disk", sent))
        self.assertEqual(publisher.outstanding, 2)
        self.passes(4)
        self.assertNoResult(late)
        self.passes(1)
        self.failureResultOf(late, ConnectionBlocked)
        self.broker.release_confirms()
        self.broker.unblock()
        self.turn()
        self.assertFlat(publisher)
        self.assertEqual(self.bodies(), [b"left"])

    def test_limit_counts_from_the_block(self) -> None:
        """
        The time before, without a connection, does not count; nor does that of another
        connection.
        """
        publisher = self.publisher(start=False, blocked_timeout=10)
        published = self.publish(publisher, 1)
        self.passes(60)
        self.broker.block()
        self.client.startService()
        self.passes(9)
        self.cut()
        self.passes(9)
        self.assertNoResult(published[0])
        self.broker.unblock()
        self.turn()
        self.assertDone(published)

    def test_no_limit(self) -> None:
        """
        A message may wait for ever.
        """
        publisher = self.publisher(blocked_timeout=None)
        self.broker.block()
        self.turn()
        published = self.publish(publisher, 1)
        self.passes(1000, 10)
        self.assertNoResult(published[0])
        self.broker.unblock()
        self.turn()
        self.assertDone(published)


class EndTests(PublisherCase):
    """
    When there is nobody to publish to any more.
    """

    def test_stop(self) -> None:
        """
        A publisher that is stopped takes no more, and waits for the answers.
        """
        publisher = self.publisher()
        self.broker.hold_confirms()
        published = self.publish(publisher, 2)
        self.turn()
        stopped, again = publisher.stop(), publisher.stop()
        again.cancel()
        self.failureResultOf(again, CancelledError)
        self.failureResultOf(publisher.publish("", "work", ""), ConnectionClosed)
        self.failureResultOf(publisher.when_room(), ConnectionClosed)
        self.assertNoResult(stopped)
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.assertDone([stopped, publisher.stop()])
        self.assertEqual(self.broker.sessions[0].channels, {})

    def test_stop_in_time(self) -> None:
        """
        What has no answer when the time is up has failed.
        """
        publisher = self.publisher(limit=3, window=2)
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        room = publisher.when_room()
        self.turn()
        stopped = publisher.stop(timeout=5)
        self.failureResultOf(room, ConnectionClosed)
        self.passes(4)
        self.assertNoResult(stopped)
        self.passes(1)
        self.assertDone([stopped])
        for each in published:
            error = self.failureResultOf(each, ConnectionClosed).value
            self.assertTrue(error.by_us)
        self.broker.release_confirms()
        self.turn()
        self.assertFlat(publisher)

    def test_stopped_before_it_began(self) -> None:
        """
        A publisher whose service was never started can be stopped.
        """
        publisher = self.publisher(start=False)
        self.assertDone([publisher.stop()])
        self.failureResultOf(publisher.publish("", "work", ""), ConnectionClosed)

    def test_service_stops(self) -> None:
        """
        A service that is stopped waits for the answers.
        """
        publisher = self.publisher(window=1)
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        self.turn()
        stopped = self.client.stopService()
        self.passes(5)
        self.assertNoResult(stopped)
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.successResultOf(stopped)
        self.failureResultOf(publisher.publish("", "work", ""), ConnectionClosed)

    def test_service_stops_in_time(self) -> None:
        """
        But not for ever: what has no answer then has failed.
        """
        publisher = self.publisher(window=1)
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        self.turn()
        stopped = self.client.stopService()
        self.passes(40)
        self.successResultOf(stopped)
        for each in published:
            self.failureResultOf(each, ConnectionClosed)
        self.assertFlat(publisher)

    def test_service_stops_without_a_connection(self) -> None:
        """
        What waits for a connection fails when there will be none; a service that is
        started again has messages taken again.
        """
        publisher = self.publisher()
        self.endpoint.refusing = True
        self.cut()
        published = self.publish(publisher, 2)
        self.passes(5)
        self.successResultOf(self.client.stopService())
        for each in published:
            self.failureResultOf(each, ConnectionClosed)
        self.endpoint.refusing = False
        for _ in range(2):
            self.failureResultOf(publisher.publish("", "work", ""), ConnectionClosed)
            self.client.startService()
            published = self.publish(publisher, 2)
            self.turn()
            self.assertDone(published)
            self.client.stopService()
            self.turn()
        self.assertFlat(publisher)

    def test_service_gives_up(self) -> None:
        """
        When the service has given up, what waits fails with its reason.
        """
        self.client = self.service(
            start=False, credentials=None, policy=GIVES_UP, name="x"
        )
        self.broker.add_user("guest", "changed")
        publisher = Publisher(self.client)
        published = self.publish(publisher, 2)
        self.client.startService()
        self.passes(20)
        for each in (*published, publisher.publish("", "work", "")):
            self.failureResultOf(each, AuthenticationFailed)

    def test_repr(self) -> None:
        """
        It shows how many messages it has.
        """
        publisher = self.publisher(start=False)
        published = self.publish(publisher, 2)
        self.assertEqual(repr(publisher), "<Publisher, 2 messages outstanding, open>")
        publisher.stop(0)
        self.passes(1)
        for each in published:
            self.failureResultOf(each, ConnectionClosed)
        self.assertEqual(repr(publisher), "<Publisher, 0 messages outstanding, closed>")


class EncodeTests(ServiceCase):
    """
    A publisher with an encoder.
    """

    def publish(self, publisher: Publisher, body: Any, **more: Any) -> Deferred[None]:
        """
        Publish a body.
        """
        sent = publisher.publish("", "work", body, **more)
        self.turn()
        return sent

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("work")
        self.client = self.service()

    def test_json(self) -> None:
        """
        JSON is encoded by name, and says what it is; bytes stay what they are.
        """
        publisher = Publisher(self.client, encode="json")
        for body in ({"tea": ["\u00e4"]}, "text", b"[1]"):
            self.successResultOf(self.publish(publisher, body))
        self.successResultOf(
            self.publish(publisher, [2], properties=Properties(content_type="x/y"))
        )
        messages = self.broker.queue("work").messages
        self.assertEqual(
            [(each.body, each.properties.content_type) for each in messages],
            [
                (b'{"tea": ["\\u00e4"]}', "application/json"),
                (b'"text"', "application/json"),
                (b"[1]", None),
                (b"[2]", "x/y"),
            ],
        )

    def test_function(self) -> None:
        """
        A function may encode, also what is delayed.
        """
        publisher = Publisher(self.client, encode=lambda number: b"%d" % number)
        self.successResultOf(self.publish(publisher, 7))
        self.successResultOf(self.publish(publisher, 8, delay=1))
        self.passes(2)
        bodies = [each.body for each in self.broker.queue("work").messages]
        self.assertEqual(bodies, [b"7", b"8"])

    def test_failures(self) -> None:
        """
        What cannot be encoded fails, and so does an encoder that returns text.
        """
        publisher = Publisher(self.client, encode="json")
        self.failureResultOf(self.publish(publisher, object()), TypeError)
        self.failureResultOf(self.publish(publisher, float("nan")), ValueError)
        text: Any = str
        publisher = Publisher(self.client, encode=text)
        failure = self.failureResultOf(self.publish(publisher, 1), TypeError)
        self.assertIn("the encoder returned str, not bytes", str(failure.value))
        unknown: Any = "yaml"
        with self.assertRaises(ValueError):
            Publisher(self.client, encode=unknown)
