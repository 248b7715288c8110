# -*- test-case-name: txamqp091.test.unit.service.test_outbox -*-
"""
Tests for `txamqp091.service.outbox`: the link goes, the channel goes, the broker
cannot keep a message, one message costs everybody the channel.  Whatever happens, each
message has one fate, and what was confirmed is there.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from txamqp091.channel import Channel
from txamqp091.errors import (
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    Nacked,
    NotFound,
    PreconditionFailed,
    Returned,
)
from txamqp091.service.entities import Binding, Exchange, Queue
from txamqp091.service.outbox import REPUBLISHED
from txamqp091.service.publisher import Publisher
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.unit.service.test_publisher import PublisherCase
from txamqp091.testing._broker.publishing import ChannelPublishes
from txamqp091.wire.properties import Properties

STEADY = RetryPolicy(initial_delay=1.0, max_delay=4.0, jitter=0.0, max_attempts=4)


class RouteTests(PublisherCase):
    """
    What a message needs is deleted while the service runs.
    """

    def setUp(self) -> None:
        super().setUp()
        self.sender = self.publisher()
        self.client.declare(
            Exchange(name="orders"),
            Queue(name="new"),
            Binding(source="orders", queue="new", routing_key="k"),
            Queue(name="parked"),
        )
        self.turn()

    def sends(self, exchange: str, routing_key: str) -> Deferred[None]:
        """
        Publish a mandatory message, and let the broker answer.
        """
        published = self.sender.publish(exchange, routing_key, b"x", mandatory=True)
        self.passes(1)
        return published

    def test_queue(self) -> None:
        """
        A queue of the topology that was deleted is declared again, and the message
        arrives, without the mark of one that may have arrived before.
        """
        self.broker.delete_queue("parked")
        self.successResultOf(self.sends("", "parked"))
        (message,) = self.broker.queue("parked").messages
        self.assertNotIn(REPUBLISHED, message.properties.headers or {})
        self.assertEqual(self.sender.returned, 0)

    def test_exchange(self) -> None:
        """
        So is an exchange, with all that is bound to it.
        """
        self.broker.delete_queue("new")
        channel = self.client.channel()
        self.turn()
        channel.call(Channel.exchange_delete, "orders")
        self.turn()
        self.successResultOf(self.sends("orders", "k"))
        self.assertEqual(len(self.broker.queue("new").messages), 1)

    def test_binding(self) -> None:
        """
        So is a queue behind an exchange.
        """
        self.broker.delete_queue("new")
        self.successResultOf(self.sends("orders", "k"))
        self.assertEqual(len(self.broker.queue("new").messages), 1)

    def test_many(self) -> None:
        """
        Many messages at once need one declaration.
        """
        self.broker.delete_queue("parked")
        with capturedLogs() as logs:
            sent = [
                self.sender.publish("", "parked", b"x", mandatory=True)
                for _ in range(20)
            ]
            self.turn(400)
        for each in sent:
            self.successResultOf(each)
        self.assertEqual(len(self.broker.queue("parked").messages), 20)
        told = [each for each in logs if "could not route" in each["log_format"]]
        self.assertEqual(len(told), 1)

    def test_no_route(self) -> None:
        """
        A message that no queue takes even so comes back, and so does one that has to do
        with nothing of the topology.
        """
        for exchange, routing_key in (("orders", "other"), ("", "nowhere")):
            self.failureResultOf(self.sends(exchange, routing_key), Returned)
        self.failureResultOf(self.sends("nowhere", "k"), NotFound)
        self.assertEqual(self.sender.returned, 2)
        self.assertEqual(self.sender.outstanding, 0)


class LinkTests(PublisherCase):
    """
    The connection is lost.
    """

    def lose(self, publisher: Publisher, count: int) -> list[Deferred[None]]:
        """
        Publish, and lose the connection before the broker has confirmed any.
        """
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, count)
        self.turn()
        self.cut()
        self.broker.release_confirms()
        self.turn()
        return published

    def test_sent_again(self) -> None:
        """
        What has left and was not confirmed is sent again: first, in order, with the
        same message-id and a mark; what had not left has no mark.
        """
        publisher = self.publisher(window=3)
        headers = Properties(headers={"a": 1})
        self.prove(publisher)
        self.broker.hold_confirms()
        published = [
            publisher.publish("", "work", f"{n}", headers) for n in range(5)
        ]  # fmt: skip
        self.turn()
        self.cut()
        published.append(publisher.publish("", "work", "5", headers))
        self.broker.release_confirms()
        self.passes(5)
        self.assertDone(published)
        sent = list(self.broker.published)
        self.assertEqual([int(each.body) for each in sent], [0, 1, 2, *range(6)])
        first, again = sent[:3], sent[3:6]
        for one, other in zip(first, again, strict=True):
            self.assertEqual(one.properties.message_id, other.properties.message_id)
            self.assertEqual(dict(one.properties.headers or {}), {"a": 1})
            marked = {"a": 1, REPUBLISHED: True}
            self.assertEqual(dict(other.properties.headers or {}), marked)
        for each in sent[6:]:
            self.assertEqual(dict(each.properties.headers or {}), {"a": 1})
        self.assertEqual(publisher.republished, 3)
        self.assertFlat(publisher)

    def test_failed(self) -> None:
        """
        Or it has failed, with the reason; what had not left leaves later.
        """
        publisher = self.publisher(on_loss="fail", window=2)
        published = self.lose(publisher, 4)
        for each in published[:2]:
            self.failureResultOf(each, ConnectionLost)
        self.passes(5)
        self.assertDone(published[2:])
        self.assertEqual(self.bodies(), [b"0", b"1", b"2", b"3"])
        self.assertFlat(publisher)

    def test_cancelled_is_not_sent_again(self) -> None:
        """
        A message that was cancelled after it had left is not sent again.
        """
        publisher = self.publisher()
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, 2)
        self.turn()
        published[0].addErrback(lambda _: None)
        published[0].cancel()
        self.cut()
        self.broker.release_confirms()
        self.passes(5)
        self.assertEqual(self.bodies(), [b"0", b"1", b"1"])
        self.assertFlat(publisher)

    def test_often(self) -> None:
        """
        The mark is made once, and the order kept, however often the link is lost.
        """
        publisher = self.publisher(window=4)
        published = self.publish(publisher, 8)
        for _ in range(5):
            self.broker.hold_confirms()
            self.passes(20)
            self.cut()
            self.broker.release_confirms()
        self.passes(20)
        self.assertDone(published)
        last = [each.body for each in self.broker.published][-8:]
        self.assertEqual(last, [b"%d" % n for n in range(8)])

    def test_as_it_came(self) -> None:
        """
        Properties that cannot be read are sent again as they are.
        """
        publisher = self.publisher()
        raw = Properties.from_wire(b"\x20\x00\x00\x00\x00\x03\x01aZ")
        self.broker.hold_confirms()
        published = [publisher.publish("", "work", "", raw)]
        self.turn()
        self.cut()
        self.broker.release_confirms()
        self.passes(5)
        self.assertDone(published)
        for each in self.broker.published:
            self.assertEqual(each.properties.encoded, raw.encoded)

    def test_outage(self) -> None:
        """
        While there is no connection, messages wait; and no more than there may be.
        """
        publisher = self.publisher(limit=50)
        self.endpoint.refusing = True
        self.cut()
        published = self.publish(publisher, 60)
        failed = [each for each in published if each.called]
        self.assertEqual(len(failed), 10)
        for each in failed:
            each.addErrback(lambda _: None)
        self.passes(100)
        self.assertEqual(publisher.outstanding, 50)
        self.endpoint.refusing = False
        self.passes(10)
        self.assertDone(published)
        self.assertEqual(len(self.bodies()), 50)

    def test_broker_closes(self) -> None:
        """
        An operator who closes the connection is an end like another.
        """
        publisher = self.publisher()
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        self.turn()
        self.broker.close_connections()
        self.turn()
        self.broker.release_confirms()
        self.passes(5)
        self.assertDone(published)
        self.assertEqual(publisher.republished, 3)


class FirstTests(PublisherCase):
    """
    The first message of a channel goes alone, and if it is not answered for, by another
    one: RabbitMQ is stuck with a channel that began while a queue's leader was frozen.
    """

    def test_alone(self) -> None:
        """
        The others wait for its answer, and then go in order.
        """
        publisher = self.publisher()
        self.broker.hold_confirms()
        published = self.publish(publisher, 5)
        self.turn()
        self.assertEqual((publisher.outstanding, publisher.unconfirmed), (5, 1))
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"%d" % n for n in range(5)])
        self.assertEqual(publisher.republished, 0)

    def test_no_answer(self) -> None:
        """
        It is sent again by another channel, and another one, after delays that grow.
        """
        publisher = self.publisher()
        self.broker.hold_confirms()
        published = self.publish(publisher, 5)
        for seconds, republished in ((1.5, 0), (1, 1), (2, 1), (1.5, 2)):
            self.passes(seconds)
            self.assertEqual(publisher.republished, republished)
            self.assertEqual((publisher.outstanding, publisher.unconfirmed), (5, 1))
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published)
        self.assertEqual(self.bodies(), [b"0", b"0", *(b"%d" % n for n in range(5))])
        self.assertEqual(len(self.broker.sessions), 1)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        self.assertFlat(publisher)

    def test_no_answer_any_more(self) -> None:
        """
        When the broker has answered, and then does so for nothing any more, another
        connection is made, once.
        """
        publisher = self.publisher()
        self.prove(publisher)
        self.broker.hold_confirms()
        published = self.publish(publisher, 5)
        first = self.link
        self.passes(29)
        self.assertEqual(publisher.republished, 0)
        self.assertIs(self.link, first)
        self.passes(35)
        self.assertIsNot(self.link, first)
        self.assertGreaterEqual(publisher.republished, 5)
        second = self.link
        self.passes(100)
        self.assertIs(self.link, second)
        self.broker.release_confirms()
        self.passes(1)
        self.assertDone(published)
        self.assertFlat(publisher)

    def test_answers_to_others(self) -> None:
        """
        While there are answers, or nothing to answer for, it stays.
        """
        publisher = self.publisher()
        self.prove(publisher)
        first = self.link
        self.passes(100)
        for _ in range(10):
            published = self.publish(publisher, 5)
            self.passes(10)
            self.assertDone(published)
        self.assertIs(self.link, first)

    def test_failed(self) -> None:
        """
        Or it has failed, and the next one goes alone.
        """
        publisher = self.publisher(on_loss="fail")
        self.broker.hold_confirms()
        published = self.publish(publisher, 3)
        self.passes(3)
        self.failureResultOf(published[0], ChannelClosed)
        self.assertEqual((publisher.outstanding, publisher.unconfirmed), (2, 1))
        self.broker.release_confirms()
        self.turn()
        self.assertDone(published[1:])

    def test_blocked(self) -> None:
        """
        While the broker blocks there are no answers, and that is no reason.
        """
        publisher = self.publisher()
        self.broker.hold_confirms()
        published = self.publish(publisher, 2)
        self.turn()
        self.broker.block()
        self.passes(20)
        self.broker.release_confirms()
        self.broker.unblock()
        self.turn()
        self.assertDone(published)
        self.assertEqual(publisher.republished, 0)


class Sticky:
    """
    Makes channels of the broker nack whatever they are given, for ever, once they had
    to do with a queue that was not well: as RabbitMQ 3.10 does.

    :ivar ill: whether the queue is not well.
    :ivar channels: the channels that have to do with that.
    """

    def __init__(self, case: PublisherCase) -> None:
        self.ill = True
        self.channels: set[ChannelPublishes] = set()
        confirm = ChannelPublishes.confirm

        def confirm_or_not(
            half: ChannelPublishes, number: int, taken: bool, routed: bool
        ) -> None:
            if self.ill:
                self.channels.add(half)
            confirm(half, number, taken and half not in self.channels, routed)

        case.patch(ChannelPublishes, "confirm", confirm_or_not)


class NackTests(PublisherCase):
    """
    The broker could not keep a message.
    """

    def test_again(self) -> None:
        """
        It is sent again after a delay, with a mark; others go ahead.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(1)
        published = self.publish(publisher, 2)
        self.turn()
        self.assertNoResult(published[0])
        self.assertDone(published[1:])
        self.passes(1)
        self.assertDone(published[:1])
        self.assertEqual(self.bodies(), [b"1", b"0"])
        again = self.broker.published[-1]
        self.assertEqual(dict(again.properties.headers or {}), {REPUBLISHED: True})
        self.assertEqual((publisher.nacked, publisher.republished), (1, 1))
        self.assertFlat(publisher)

    def test_how_often(self) -> None:
        """
        With growing delays, and not for ever.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(1000)
        published = self.publish(publisher, 3)
        times: list[float] = []

        def note(failure: Failure) -> Failure:
            times.append(self.clock.seconds())
            return failure

        published[0].addErrback(note)
        self.passes(6)
        self.assertEqual(len(self.broker.published), 9)
        self.passes(1)
        for each in published:
            self.failureResultOf(each, Nacked)
        self.assertEqual(times, [7.0])
        self.assertEqual(len(self.broker.published), 12)
        self.assertFlat(publisher)

    def test_never(self) -> None:
        """
        Or not at all.
        """
        once = RetryPolicy(max_attempts=1)
        publisher = self.publisher(nacked_again=once)
        self.broker.refuse_publishes(1)
        published = self.publish(publisher, 1)
        self.turn()
        self.failureResultOf(published[0], Nacked)

    def test_new_channel(self) -> None:
        """
        Criterion 14, in memory: a channel that nacks for ever is left for another one,
        and closed when it owes no answer.
        """
        sticky = Sticky(self)
        publisher = self.publisher(nacked_again=STEADY)
        published = self.publish(publisher, 5)
        self.turn()
        sticky.ill = False
        published += self.publish(publisher, 5)
        self.turn()
        self.assertEqual(publisher.nacked, 10)
        self.passes(1)
        self.assertDone(published)
        self.assertEqual(len(sticky.channels), 1)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        self.assertFlat(publisher)

    def test_answers_on_the_old_channel(self) -> None:
        """
        What the old channel still owes an answer for is not sent again.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(1)
        nacked = self.publish(publisher, 1)
        self.turn()
        self.broker.hold_confirms()
        held = publisher.publish("", "work", "held")
        self.passes(1)
        self.assertEqual(len(self.broker.sessions[0].channels), 2)
        self.broker.release_confirms()
        self.turn()
        self.assertDone([*nacked, held])
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        self.assertEqual(self.bodies(), [b"held", b"0"])

    def test_old_channel_is_lost(self) -> None:
        """
        What an old channel owes an answer for when the link goes is sent again in its
        place.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(1)
        published = self.publish(publisher, 1)
        self.turn()
        self.broker.hold_confirms()
        published += [publisher.publish("", "work", "old") for _ in range(2)]
        self.passes(1)
        published += [publisher.publish("", "work", "new") for _ in range(2)]
        self.turn()
        # The first one of the new channel is alone.
        self.assertEqual((publisher.unconfirmed, publisher.outstanding), (3, 5))
        self.cut()
        self.broker.release_confirms()
        self.passes(5)
        self.assertDone(published)
        self.assertEqual(self.bodies()[-4:], [b"old", b"old", b"new", b"new"])
        self.assertFlat(publisher)

    def test_many_channels(self) -> None:
        """
        There are not ever more channels, however many do not answer.
        """
        publisher = self.publisher(nacked_again=STEADY)
        published = []
        for _ in range(30):
            self.broker.release_confirms()
            self.broker.refuse_publishes(1)
            published += self.publish(publisher, 1)
            self.turn()
            self.broker.hold_confirms()
            published += self.publish(publisher, 1)
            self.passes(1)
        self.assertLess(len(self.broker.sessions[0].channels), 11)
        self.broker.release_confirms()
        self.passes(20)
        self.assertDone(published)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)

    def test_service_stops(self) -> None:
        """
        A service that is stopped waits for what was nacked.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(2)
        published = self.publish(publisher, 1)
        self.turn()
        stopped = self.client.stopService()
        self.passes(4)
        self.successResultOf(stopped)
        self.assertDone(published)

    def test_cancelled(self) -> None:
        """
        A message that was put aside can be cancelled.
        """
        publisher = self.publisher(nacked_again=STEADY)
        self.broker.refuse_publishes(1)
        published = self.publish(publisher, 1)
        self.turn()
        published[0].addErrback(lambda _: None)
        published[0].cancel()
        self.assertFlat(publisher)
        self.passes(5)
        self.assertEqual(self.bodies(), [])


class RefusalTests(PublisherCase):
    """
    The broker closes the channel for one of the messages.
    """

    def test_no_exchange(self) -> None:
        """
        Messages to an exchange that does not exist fail; the others are sent again.
        """
        publisher = self.publisher()
        self.broker.declare_exchange("there")
        self.broker.bind_queue("work", "there")
        published = self.publish(publisher, 3)
        missing = [publisher.publish("missing", "", "") for _ in range(2)]
        published += [publisher.publish("there", "", "x") for _ in range(3)]
        self.passes(5)
        for each in missing:
            error = self.failureResultOf(each, NotFound).value
            self.assertEqual(error.operation, "basic.publish")
        self.assertDone(published)
        self.assertEqual(publisher.failures, 2)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)

    def test_no_exchange_without_sending_again(self) -> None:
        """
        A publisher that does not send again has all that had left fail, and goes on.
        """
        publisher = self.publisher(on_loss="fail")
        published = self.publish(publisher, 1)
        published.append(publisher.publish("missing", "", ""))
        self.turn()
        for each in published:
            each.addErrback(lambda failure: failure.trap(NotFound))
        published = self.publish(publisher, 2)
        self.assertNoResult(published[0])
        self.passes(1)
        self.assertDone(published)

    def test_suspects(self) -> None:
        """
        When the broker does not say for which, each goes alone until that one is found;
        then they go together again.
        """
        publisher = self.publisher(window=100)
        published = self.publish(publisher, 20)
        wrong = publisher.publish("", "work", "wrong", Properties(user_id="nobody"))
        published += self.publish(publisher, 20)
        self.turn()
        sent: list[int] = []
        while not wrong.called:
            self.clock.advance(0.01)
            sent.append(publisher.unconfirmed)
        self.assertLessEqual(max(sent), 1)
        self.failureResultOf(wrong, PreconditionFailed)
        self.passes(5)
        self.assertDone(published)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        self.assertFlat(publisher)
        more = self.publish(publisher, 10)
        self.assertEqual(publisher.unconfirmed, 10)
        self.turn()
        self.assertDone(more)

    def test_costs_the_connection(self) -> None:
        """
        A message for which the broker closes the connection is found likewise, and does
        not cost every connection to come.
        """
        publisher = self.publisher()
        published = self.publish(publisher, 3)
        put = self.broker.put

        def refuse(vhost: Any, message: Any) -> Any:
            if message.body == b"wrong":
                self.broker.close_connections(541, "INTERNAL_ERROR")
            return put(vhost, message)

        self.patch(self.broker, "put", refuse)
        wrong = publisher.publish("", "work", "wrong")
        published += self.publish(publisher, 3)
        self.passes(30)
        error = self.failureResultOf(wrong, ConnectionClosed).value
        self.assertEqual(error.reply_code, 541)
        self.assertDone(published)
        self.assertFlat(publisher)

    def test_one_after_the_other(self) -> None:
        """
        Many that are wrong cost a channel each, with a short delay, and nobody else
        fails.
        """
        publisher = self.publisher()
        wrong, good = [], []
        for number in range(10):
            good += self.publish(publisher, 2)
            if number % 3 == 0:
                wrong.append(
                    publisher.publish("", "work", "", Properties(user_id="nobody"))
                )
        self.passes(10, 0.05)
        for each in wrong:
            self.failureResultOf(each, PreconditionFailed)
        self.assertDone(good)
