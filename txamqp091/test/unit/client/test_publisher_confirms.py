# -*- test-case-name: txamqp091.test.unit.client.test_publisher_confirms -*-
"""
Tests for publishing in confirm mode: each Deferred is told of its own message, once;
and no more than a window of them is under way.
"""

from __future__ import annotations

from random import Random

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.channel import Channel
from txamqp091.errors import (
    ConnectionClosed,
    ConnectionLost,
    LocalProtocolError,
    Nacked,
    NotFound,
    Returned,
)
from txamqp091.message import Message
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec


class ConfirmTests(ChannelCase):
    """
    Whose a confirm is.
    """

    def publish(
        self, body: bytes, mandatory: bool = False, routing_key: str = "work"
    ) -> Deferred[None]:
        """
        Publish a message.
        """
        return self.channel.basic_publish("", routing_key, body, mandatory=mandatory)

    def come_back(self, body: bytes, routing_key: str = "work") -> None:
        """
        Have a message come back.
        """
        method = spec.BasicReturn(312, "NO_ROUTE", "", routing_key)
        self.peer.feed(self.peer.content(1, method, body))

    def test_out_of_order(self) -> None:
        """
        Confirms come in any order; each is for one message.
        """
        self.confirming()
        publishes = [self.publish(b"x") for _ in range(5)]
        for number in [3, 1, 5, 2, 4]:
            self.assertNoResult(publishes[number - 1])
            self.peer.send(1, spec.BasicAck(number))
            self.assertIsNone(self.successResultOf(publishes[number - 1]))

    def test_multiple(self) -> None:
        """
        With ``multiple``, all up to a number are confirmed, and none after it; and
        with 0, all.
        """
        self.confirming()
        publishes = [self.publish(b"x") for _ in range(6)]
        self.peer.send(1, spec.BasicAck(2), spec.BasicNack(4, True))
        self.assertIsNone(self.successResultOf(publishes[1]))
        for place in [0, 2, 3]:
            self.assertTrue(self.reason(publishes[place], Nacked).retriable)
        self.assertNoResult(publishes[4])
        self.peer.send(1, spec.BasicAck(0, True))
        self.successResultOf(publishes[4])
        self.successResultOf(publishes[5])

    def test_before_the_answer(self) -> None:
        """
        Messages that are published before select-ok are counted from the first.
        """
        selecting = self.channel.confirm_select()
        publishes = [self.publish(b"%d" % each) for each in range(3)]
        self.assertEqual(self.heard()[0], spec.ConfirmSelect())
        self.peer.send(1, spec.ConfirmSelectOk(), spec.BasicAck(1))
        self.successResultOf(selecting)
        self.successResultOf(publishes[0])
        self.assertNoResult(publishes[1])
        self.peer.send(1, spec.BasicAck(3, True))
        self.successResultOf(publishes[1])
        self.successResultOf(publishes[2])

    def test_select_again(self) -> None:
        """
        Asking for confirm mode again goes on counting.
        """
        self.confirming()
        first = self.publish(b"x")
        again = self.channel.confirm_select()
        second = self.publish(b"x")
        self.peer.send(1, spec.ConfirmSelectOk(), spec.BasicAck(2))
        self.successResultOf(again)
        self.successResultOf(second)
        self.assertNoResult(first)
        self.peer.send(1, spec.BasicAck(1))
        self.successResultOf(first)

    def test_returned(self) -> None:
        """
        A message that came back fails with `Returned`, which has it, once its
        confirm has come; and those around it do not.
        """
        self.confirming()
        publishes = [self.publish(b"%d" % each, True) for each in range(3)]
        self.come_back(b"1")
        self.assertNoResult(publishes[1])
        self.peer.send(1, spec.BasicAck(3, True))
        self.successResultOf(publishes[0])
        self.successResultOf(publishes[2])
        error = self.reason(publishes[1], Returned)
        self.assertEqual((error.reply_code, error.reply_text), (312, "NO_ROUTE"))
        assert isinstance(error.message, Message)
        self.assertEqual(error.message.body, b"1")

    def test_4000_half_unroutable(self) -> None:
        """
        Of 4000 pipelined mandatory messages, half of which cannot be routed, 2000
        succeed and 2000 fail with `Returned`, each for its own message, however the
        returns and the confirms are interleaved.
        """
        random = Random(4000)
        self.confirming(4000)
        keys = ["work", "nowhere"] * 2000
        random.shuffle(keys)
        publishes = [
            self.publish(b"%d" % place, True, key) for place, key in enumerate(keys)
        ]
        self.heard()
        # Returns come in the order of publishing.  Confirms come in any order, but
        # after the return; several numbers may be covered by one.
        unanswered: set[int] = set()
        frames: list[bytes] = []
        for number, key in enumerate(keys, 1):
            if key == "nowhere":
                method = spec.BasicReturn(312, "NO_ROUTE", "", key)
                frames.append(self.peer.content(1, method, b"%d" % (number - 1)))
            unanswered.add(number)
            while random.random() < 0.4 and unanswered:
                if random.random() < 0.05:
                    ack = spec.BasicAck(max(unanswered), True)
                    unanswered.clear()
                else:
                    ack = spec.BasicAck(random.choice(sorted(unanswered)[-50:]))
                    unanswered.remove(ack.delivery_tag)
                frames.append(self.peer.content(1, ack)[:21])
        frames.append(self.peer.content(1, spec.BasicAck(0, True))[:21])
        self.peer.feed(b"".join(frames))
        returned = 0
        for place, key in enumerate(keys):
            if key == "work":
                self.assertIsNone(self.successResultOf(publishes[place]))
            else:
                message = self.reason(publishes[place], Returned).message
                assert isinstance(message, Message)
                self.assertEqual(message.body, b"%d" % place)
                returned += 1
        self.assertEqual(returned, 2000)

    def test_alike(self) -> None:
        """
        A message that was confirmed already takes no later one's return, even if
        they are alike, and an older one is not answered for.
        """
        self.confirming()
        self.publish(b"slow", True)
        first = self.publish(b"same", True)
        self.peer.send(1, spec.BasicAck(2))
        self.successResultOf(first)
        second = self.publish(b"same", True)
        self.come_back(b"same")
        self.peer.send(1, spec.BasicAck(0, True))
        self.reason(second, Returned)

    def test_large_and_returned(self) -> None:
        """
        A message that comes back is known as such, also when it is larger than what
        is accepted from others.
        """
        self.channel._machine.max_body = 10
        self.confirming()
        done = self.publish(bytes(100), True)
        self.come_back(bytes(100))
        self.peer.send(1, spec.BasicAck(1))
        self.reason(done, Returned)

    def test_cancelled(self) -> None:
        """
        A publish that is cancelled after it has left may be confirmed; the others
        are, each by its own number.
        """
        self.confirming()
        first, second = self.publish(b"1"), self.publish(b"2")
        first.cancel()
        self.reason(first, CancelledError)
        self.peer.send(1, spec.BasicAck(1))
        self.assertNoResult(second)
        self.peer.send(1, spec.BasicNack(2))
        self.reason(second, Nacked)
        self.assertEqual(self.channel._machine.confirms.outstanding, {})  # type: ignore[union-attr]

    def test_channel_ends(self) -> None:
        """
        Criterion 12: of 40 messages under way when the channel ends, those that were
        answered for have that outcome, the others fail with the reason, and each has
        one; the other channel does not notice.
        """
        outcomes: list[object] = []
        self.confirming(30)
        other = self.peer.open_channel()
        untouched = other.basic_publish("", "work", b"x")
        publishes = [self.publish(b"x") for _ in range(40)]
        for each in publishes:
            each.addBoth(outcomes.append)
        self.assertEqual(len(self.bodies()), 31)
        self.peer.send(1, spec.BasicAck(2), spec.BasicNack(3))
        self.peer.send(1, spec.ChannelClose(404, "no exchange", 60, 40))
        self.assertEqual(len(outcomes), 40)
        self.assertEqual(outcomes.count(None), 1)
        errors = [getattr(each, "type", None) for each in outcomes]
        self.assertEqual(errors.count(Nacked), 1)
        self.assertEqual(errors.count(NotFound), 38)
        self.successResultOf(untouched)
        self.assertTrue(other.is_open)
        self.peer.drop()
        self.assertEqual(len(outcomes), 40)

    def test_connection_ends(self) -> None:
        """
        Criterion 10: when the transport goes, each message under way fails with that,
        once.
        """
        self.confirming(3)
        publishes = [self.publish(b"x") for _ in range(5)]
        self.peer.drop()
        for each in publishes:
            self.reason(each, ConnectionLost)

    def test_returned_and_then_the_end(self) -> None:
        """
        What came back before the channel ended has come back.
        """
        self.confirming()
        publishes = [self.publish(b"%d" % each, True) for each in range(2)]
        self.come_back(b"1")
        self.peer.send(1, spec.ChannelClose(404, "no", 60, 40))
        self.reason(publishes[0], NotFound)
        self.reason(publishes[1], Returned)

    def test_nothing_is_kept(self) -> None:
        """
        When all is confirmed, no body is kept, however many came and went.
        """
        self.confirming()
        for _ in range(300):
            self.publish(bytes(1000), True)
        self.peer.send(1, spec.BasicAck(0, True))
        confirms = self.channel._machine.confirms
        assert confirms is not None
        self.assertEqual(len(confirms.outstanding), 0)
        self.assertEqual(len(confirms._mandatory), 0)


class WindowTests(ChannelCase):
    """
    How many messages are under way.
    """

    def publish(self, times: int) -> list[Deferred[None]]:
        """
        Publish messages, with their places as bodies.
        """
        return [
            self.channel.basic_publish("", "q", b"%d" % each) for each in range(times)
        ]

    def test_default(self) -> None:
        """
        Criterion 13: the window is 1000 messages; the next ones wait, and leave one
        by one as confirms come.
        """
        self.confirming()
        publishes = self.publish(1003)
        self.assertEqual(len(self.bodies()), 1000)
        self.assertNoResult(publishes[1000])
        self.peer.send(1, spec.BasicAck(500))
        self.assertEqual(self.bodies(), [b"1000"])
        self.peer.send(1, spec.BasicNack(1))
        self.assertEqual(self.bodies(), [b"1001"])
        self.peer.send(1, spec.BasicAck(1002, True))
        self.assertEqual(self.bodies(), [b"1002"])
        self.peer.send(1, spec.BasicAck(1003))
        self.reason(publishes[0], Nacked)
        for each in publishes[1:]:
            self.successResultOf(each)

    def test_cancelled_while_waiting(self) -> None:
        """
        A message that is cancelled while it waits never leaves, and has no number.
        """
        self.confirming(1)
        publishes = self.publish(3)
        publishes[1].cancel()
        self.reason(publishes[1], CancelledError)
        self.assertEqual(self.bodies(), [b"0"])
        self.peer.send(1, spec.BasicAck(1))
        self.assertEqual(self.bodies(), [b"2"])
        self.peer.send(1, spec.BasicAck(2))
        self.successResultOf(publishes[2])

    def test_cancelled_after_waiting(self) -> None:
        """
        A message that waited, left, and is cancelled then, is confirmed harmlessly.
        """
        self.confirming(1)
        first, second = self.publish(2)
        self.peer.send(1, spec.BasicAck(1))
        second.cancel()
        self.reason(second, CancelledError)
        self.peer.send(1, spec.BasicAck(2))
        self.successResultOf(first)
        self.assertTrue(self.peer.client.is_open)

    def test_cancelled_and_then_the_end(self) -> None:
        """
        The same when the channel ends.
        """
        self.confirming(1)
        first, second = self.publish(2)
        self.peer.send(1, spec.BasicAck(1))
        second.cancel()
        self.reason(second, CancelledError)
        self.peer.send(1, spec.ChannelClose(404, "no", 60, 40))
        self.successResultOf(first)
        self.reason(self.channel.when_closed(), NotFound)

    def test_other_window(self) -> None:
        """
        The window can be changed: a smaller one is reached by and by.
        """
        self.confirming(4)
        publishes = self.publish(6)
        self.assertEqual(len(self.bodies()), 4)
        self.channel.confirm_select(2)
        self.peer.serve()
        self.peer.send(1, spec.BasicAck(2, True))
        self.assertEqual(self.bodies(), [])
        self.peer.send(1, spec.BasicAck(3))
        self.assertEqual(self.bodies(), [b"4"])
        self.channel.confirm_select(10)
        self.assertEqual(self.bodies(), [b"5"])
        self.peer.serve()
        self.peer.send(1, spec.ConfirmSelectOk(), spec.BasicAck(0, True))
        for each in publishes:
            self.successResultOf(each)

    def test_publishing_from_a_confirm(self) -> None:
        """
        A callback of a confirm may publish, and waits its turn.
        """
        self.confirming(2)
        publishes = self.publish(3)
        publishes[0].addCallback(lambda _: self.channel.basic_publish("", "q", b"more"))
        self.assertEqual(self.bodies(), [b"0", b"1"])
        self.peer.send(1, spec.BasicAck(2, True))
        self.assertEqual(self.bodies(), [b"2", b"more"])
        self.assertNoResult(publishes[0])
        self.peer.send(1, spec.BasicAck(4, True))
        for each in publishes:
            self.successResultOf(each)

    def test_closing_from_a_confirm(self) -> None:
        """
        A callback of a confirm may end the channel, or the connection: what the same
        confirm covers has its outcome once.
        """
        self.confirming(3)
        publishes = self.publish(4)

        def close(_: None, what: Channel | AMQPProtocol) -> None:
            what.close()

        publishes[0].addCallback(close, self.channel)
        publishes[1].addCallback(close, self.peer.client)
        self.peer.send(1, spec.BasicAck(3, True))
        self.successResultOf(publishes[0])
        self.successResultOf(publishes[1])
        self.reason(publishes[2], ConnectionClosed)
        self.reason(publishes[3], ConnectionClosed)
        self.peer.serve()

    def test_size(self) -> None:
        """
        Criterion 13: large bodies count, too: 16 MiB of them may be unconfirmed.
        """
        self.confirming()
        body = b"x" * (1 << 20)
        publishes = [self.channel.basic_publish("", "q", body) for _ in range(18)]
        self.assertEqual(len(self.bodies()), 16)
        self.assertNoResult(publishes[16])
        self.peer.send(1, spec.BasicAck(3))
        self.assertEqual(len(self.bodies()), 1)
        self.peer.send(1, spec.BasicAck(0, True))
        self.assertEqual(len(self.bodies()), 1)
        self.peer.send(1, spec.BasicAck(18))
        for each in publishes:
            self.successResultOf(each)
        # All has been answered for, and leaves room for as much again.
        for _ in range(16):
            self.channel.basic_publish("", "q", body).addErrback(lambda _: None)
        self.assertEqual(len(self.bodies()), 16)

    def test_other_size(self) -> None:
        """
        How many bytes is the caller's to say; small bodies are not counted.
        """
        self.channel.confirm_select(window_size=10_000)
        self.peer.serve()
        for size in (4096, 4096, 4096, 9000, 4097, 1):
            publish = self.channel.basic_publish("", "q", b"x" * size)
            publish.addErrback(lambda _: None)
        self.assertEqual(len(self.bodies()), 5)
        self.reason(
            self.channel.confirm_select(window_size=0),
            LocalProtocolError,
        )
