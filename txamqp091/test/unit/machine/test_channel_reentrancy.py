# -*- test-case-name: txamqp091.test.unit.machine.test_channel_reentrancy -*-
"""
Tests for `txamqp091._machine.channel`: sinks that call the machine from inside.
"""

from __future__ import annotations

from collections.abc import Callable

from txamqp091._machine.channel import ChannelMachine
from txamqp091._machine.connection import Limits
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    ConnectionLost,
)
from txamqp091.test.support.recording import (
    ChannelCase,
    RecordingHandle,
    content,
    frames,
)
from txamqp091.wire import spec


class ReentrancyTests(ChannelCase):
    """
    Tests for sinks that call the machine from inside.
    """

    confirms = True

    #: For each method that a channel's machine calls: whose it is, and what the peer
    #: says to bring it about.
    provoked: dict[tuple[object, str], bytes] = {
        ("tag", "delivered"): content(1, spec.BasicDeliver("tag", 1), b"body"),
        ("tag", "oversized"): content(1, spec.BasicDeliver("tag", 1), bytes(2000)),
        ("tag", "cancelled"): frames(1, spec.BasicCancel("tag", True)),
        ("tag", "ended"): frames(1, spec.ChannelClose(404, "")),
        (1, "closed"): frames(1, spec.ChannelClose(404, "")),
        (1, "confirmed"): frames(1, spec.BasicAck(1)),
        (1, "returned"): content(1, spec.BasicReturn(312, "", "x", "key"), b"body"),
        (1, "flow"): frames(1, spec.ChannelFlow(False)),
        ("message", "callback"): frames(1, spec.BasicAck(1)),
        ("message", "errback"): frames(1, spec.BasicNack(1)),
        ("declare", "callback"): frames(1, spec.QueueDeclareOk("q")),
        ("declare", "errback"): frames(1, spec.ChannelClose(404, "")),
    }
    limits = Limits(max_body=1000)

    def provoke(self, event: tuple[object, str], hook: Callable[[], object]) -> None:
        """
        Bring an event about, and do something from inside it; then end everything.
        """
        self.setUp()
        self.recorder.consume(self.channel)
        self.channel.call(spec.QueueDeclare(), self.recorder.handle("declare"))
        self.publish(mandatory=True, name="message")
        self.publish(name="second")
        self.recorder.forget()
        self.recorder.hooks[event] = hook
        self.recorder.receive(self.provoked[event])
        self.assertNotIn(event, self.recorder.hooks, f"{event} did not come")

    def check_handles(self, when: object) -> None:
        """
        After the end, each of those who waited was told once.
        """
        self.recorder.machine.lost(ConnectionLost("lost"))
        events = self.recorder.events
        for name in ("declare", "message", "second"):
            told = [event for event in events if event[0] == name]
            self.assertEqual(len(told), 1, (when, name, events))
        closed = [event for event in events if event[:2] == (1, "closed")]
        self.assertEqual(len(closed), 1, when)
        ended = [event for event in events if event[1] in ("ended", "cancelled")]
        self.assertEqual(len(ended), 1, when)

    def test_close_the_channel(self) -> None:
        """
        Every sink method may close the channel.
        """
        for event in self.provoked:
            handle = RecordingHandle(self.recorder, "close")

            def close(handle: RecordingHandle = handle) -> None:
                try:
                    self.channel.close(200, "", handle)
                except ChannelClosed:
                    handle.results.append(None)  # it has ended already

            self.provoke(event, close)
            self.check_handles(event)
            self.assertEqual(len(handle.results), 1, event)

    def test_fail_the_connection(self) -> None:
        """
        Every sink method may end the connection: nothing is called after that but
        those who still waited.
        """
        for event in self.provoked:
            self.provoke(event, self.lose)
            self.check_handles(event)
            self.recorder.forget()
            for data in self.provoked.values():
                self.recorder.receive(data)
            self.assertEqual(self.recorder.take(), [], event)

    def lose(self) -> None:
        """
        The transport goes.
        """
        self.recorder.machine.lost(ConnectionLost("over"))

    def test_publish(self) -> None:
        """
        Every sink method may publish: the message is sent, or refused with the
        reason of the end.
        """
        for event in self.provoked:
            outcome = self.recorder.handle("inner")
            refused: list[AMQPError] = []

            def publish(
                outcome: RecordingHandle = outcome, refused: list[AMQPError] = refused
            ) -> None:
                try:
                    self.channel.publish("x", "inner", b"", b"\0\0", True, outcome)
                except AMQPError as error:
                    refused.append(error)

            self.provoke(event, publish)
            self.check_handles(event)
            self.assertEqual(len(outcome.results) + len(refused), 1, event)

    def test_call(self) -> None:
        """
        Every sink method may call, such as to cancel its consumer: the call is
        answered, or refused with the reason of the end.
        """
        for event in self.provoked:
            outcome = self.recorder.handle("inner")
            refused: list[AMQPError] = []

            def cancel(
                outcome: RecordingHandle = outcome, refused: list[AMQPError] = refused
            ) -> None:
                try:
                    self.channel.call(spec.BasicCancel("tag"), outcome)
                except AMQPError as error:
                    refused.append(error)

            self.provoke(event, cancel)
            self.check_handles(event)
            self.assertEqual(len(outcome.results) + len(refused), 1, event)

    def test_open_another(self) -> None:
        """
        Every sink method may open another channel, also under the number of the one
        that is ending.
        """
        for event in self.provoked:
            opened: list[ChannelMachine] = []

            def begin(opened: list[ChannelMachine] = opened) -> None:
                opened.append(self.recorder.begin_channel())

            self.provoke(event, begin)
            (channel,) = opened
            self.recorder.say(channel.number, spec.ChannelOpenOk())
            self.assertIsNone(channel.reason, event)
            self.check_handles(event)

    def test_a_consumer_that_acks(self) -> None:
        """
        A consumer that acks, and ends itself, from inside its first delivery gets no
        second one.
        """
        self.recorder.consume(self.channel)

        def act() -> None:
            self.channel.settle(spec.BasicAck, 1, 0)
            self.channel.call(spec.BasicCancel("tag"), self.recorder.handle("cancel"))
            self.channel.forget("tag")

        self.recorder.hooks["tag", "delivered"] = act
        self.recorder.receive(content(1, spec.BasicDeliver("tag", 1), b"body"))
        self.assertEqual(
            self.recorder.sent(),
            [(1, spec.BasicAck(1)), (1, spec.BasicCancel("tag"))],
        )
