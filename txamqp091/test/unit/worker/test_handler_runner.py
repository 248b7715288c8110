# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
Handlers are called, and each message is settled as the policy says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    inlineCallbacks,
    succeed,
)
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091._threads import ThreadRunner
from txamqp091.consumer import Consumer, Handler
from txamqp091.errors import (
    EncodeError,
    Nacked,
    NotFound,
    Returned,
    UndecodableProperty,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.peer import Peer
from txamqp091.wire.properties import Properties
from txamqp091.wire.spec import BasicAck, BasicNack, BasicReject
from txamqp091.wire.types import Int64
from txamqp091.worker.counts import Counts, Histogram, MessageOutcome
from txamqp091.worker.failure_policy import (
    Dead,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
)
from txamqp091.worker.handler_runner import HandlerOptions, HandlerRunner
from txamqp091.worker.retry_queues import RetryQueues


class Shop:
    """
    An object with a handler.
    """

    def take(self, delivery: Delivery) -> None:
        """
        A method, for a handler.
        """


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


@inlineCallbacks
def inline(delivery: Delivery) -> Generator[Any, Any, None]:
    """
    A handler with ``inlineCallbacks``.
    """
    yield


shop = Shop()


#: Headers that are longer than what follows.
BROKEN = Properties.from_wire((0x2000).to_bytes(2, "big") + b"\x00\x00\x00\xff")

#: Every error is the end of a message.
REJECTING = FailurePolicy(on_error=OnError.REJECT, on_dead=Dead.EXCHANGE)


class RunnerCase(SynchronousTestCase):
    """
    A consumer of a peer in memory, with a handler.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.events = self.enterContext(capturedLogs())

    def runner(
        self, handler: Handler, options: HandlerOptions | None = None, **details: Any
    ) -> HandlerRunner:
        """
        A runner, as the handler of a consumer.
        """
        runner = HandlerRunner(handler, "work", self.peer.clock, options, **details)
        consuming: Deferred[Consumer] = self.channel.basic_consume(
            "work", runner.take, prefetch=0
        )
        self.peer.serve()
        self.successResultOf(consuming)
        self.addCleanup(self.stop, runner)
        return runner

    def stop(self, runner: HandlerRunner) -> None:
        """
        Leave no timer behind.
        """
        runner.closing = True
        runner.abandon()
        runner.stop_publishing()

    def deliver(self, delivery_tag: int = 1, **details: Any) -> None:
        """
        Deliver a message.
        """
        self.peer.deliver(1, "ctag-1.1", delivery_tag, b"the secret body", **details)

    def failed(self, kind: type[Exception] = ValueError) -> str:
        """
        What is logged of a failure, apart from the traceback; once.
        """
        self.assertEqual(len(self.flushLoggedErrors(kind)), 1)
        [event] = [each for each in self.events if "log_failure" in each]
        self.assertNotIn("secret", repr(event))
        return formatEvent(event)


class HandlerTests(RunnerCase):
    """
    A handler is called, and its message settled.
    """

    def succeeding(self) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind.
        """

        class Own:
            def __await__(self) -> Generator[Any, Any, int]:
                return succeed(1).__await__()

        async def coroutine(delivery: Delivery) -> None:
            pass

        async def nested(delivery: Delivery) -> object:
            return coroutine(delivery)

        return [
            take,
            shop.take,
            inline,
            coroutine,
            nested,
            lambda delivery: 42,
            lambda delivery: Own(),
        ]

    def test_success(self) -> None:
        """
        The message is acknowledged, whatever kind of handler it was.
        """
        for handler in self.succeeding():
            self.setUp()
            runner = self.runner(handler)
            self.deliver()
            self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
            self.assertEqual(runner.counts, Counts(acknowledged=1))
            self.assertEqual(runner.running, 0)

    def test_later(self) -> None:
        """
        It is acknowledged when the handler has ended, not before.
        """
        result: Deferred[None] = Deferred()

        async def handler(delivery: Delivery) -> None:
            await result

        runner = self.runner(handler)
        self.deliver()
        idle = runner.when_idle()
        self.assertEqual((self.peer.listen(), runner.running), ([], 1))
        self.assertNoResult(idle)
        result.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.successResultOf(idle)
        self.successResultOf(runner.when_idle())

    def test_looks_at_itself(self) -> None:
        """
        A handler that looks at its runner sees itself run.
        """
        seen: list[object] = []

        def handler(delivery: Delivery) -> None:
            self.peer.clock.advance(3)
            seen.append((runner.running, runner.unsettled, runner.waiting))
            seen.append((runner.idle_seconds(), runner.oldest()))
            seen.append(runner.when_idle())

        runner = self.runner(handler)
        began = self.peer.clock.seconds()
        self.deliver()
        *numbers, idle = seen
        self.assertEqual(numbers, [(1, 1, 0), (3, began)])
        assert isinstance(idle, Deferred)
        self.successResultOf(idle)
        self.assertEqual((runner.running, runner.unsettled), (0, 0))
        self.assertEqual((runner.idle_seconds(), runner.oldest()), (0, None))
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(acknowledged=1))

    def test_abandons_itself(self) -> None:
        """
        A handler that stops its own consumer at once has its message given back, and
        not acknowledged.
        """
        runner = self.runner(lambda delivery: runner.abandon())
        self.deliver()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, False, True))
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(runner.counts, Counts(unfinished=1))
        self.assertEqual(runner.running, 0)

    def test_while_another_waits(self) -> None:
        """
        What handlers do at once does not count for one that waits.
        """
        waiting: Deferred[None] = Deferred()
        results = [waiting, None]
        runner = self.runner(lambda delivery: results.pop(0))
        self.deliver(1)
        idle = runner.when_idle()
        self.peer.clock.advance(5)
        self.deliver(2)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(2))
        self.peer.clock.advance(1)
        self.assertEqual((runner.running, runner.idle_seconds()), (1, 1))
        self.assertNoResult(idle)
        waiting.callback(None)
        self.successResultOf(idle)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))

    def test_delivered_meanwhile(self) -> None:
        """
        A delivery that comes while a handler is called is handled before that handler
        ends, and each is acknowledged.
        """
        seen: list[object] = []

        def handler(delivery: Delivery) -> None:
            if delivery.delivery_tag == 1:
                self.deliver(2)
            seen.append((delivery.delivery_tag, runner.running))

        runner = self.runner(handler)
        self.deliver(1)
        self.assertEqual(seen, [(2, 2), (1, 1)])
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(2))
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual((runner.running, runner.unsettled), (0, 0))

    def failing(self, error: BaseException) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind that fail.
        """

        def plain(delivery: Delivery) -> None:
            raise error

        async def coroutine(delivery: Delivery) -> None:
            raise error

        def deferred(delivery: Delivery) -> Deferred[None]:
            failing: Deferred[None] = Deferred()
            failing.errback(error)
            return failing

        return [plain, coroutine, deferred]

    def test_failure(self) -> None:
        """
        A message whose handler fails is settled as the policy says.  The log says which
        message it was, and nothing of its body.
        """
        for handler in self.failing(ValueError("no")):
            self.setUp()
            runner = self.runner(handler, HandlerOptions(policy=REJECTING))
            self.deliver(properties=Properties(message_id="m\n1"), exchange="shop")
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
            self.assertEqual(runner.counts, Counts(rejected=1))
            self.assertEqual(
                self.failed(),
                "The handler failed for a message from queue work: dead-lettered by "
                "its queue (delivery tag 1, message-id 'm\\n1', exchange 'shop', "
                "routing key 'work')",
            )

    def test_every_exception(self) -> None:
        """
        Whatever a handler raises, the message is settled, the slot is free, and the
        connection lives.
        """
        for error in (
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            asyncio.CancelledError(),
            BaseExceptionGroup("several", [GeneratorExit()]),
        ):
            for handler in self.failing(error):
                self.setUp()
                runner = self.runner(handler, HandlerOptions(policy=REJECTING))
                self.deliver()
                self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
                self.assertEqual(runner.counts, Counts(rejected=1))
                self.assertEqual((runner.running, runner.unsettled), (0, 0))
                self.assertTrue(self.channel.is_open)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_error_without_text(self) -> None:
        """
        An exception that fails to tell what it is does no harm either.
        """

        class Bad(Reject):
            def __str__(self) -> str:
                raise KeyboardInterrupt

            __repr__ = __str__

        def handler(delivery: Delivery) -> None:
            raise Bad

        runner = self.runner(handler)
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(rejected=1))

    def test_generator(self) -> None:
        """
        A generator that a handler returns has not run: that is a failure.
        """

        def generator() -> Generator[int, None, None]:
            yield 1

        async def asynchronous() -> Any:
            yield 1

        for make in (generator, asynchronous):
            self.setUp()
            options = HandlerOptions(policy=REJECTING)
            self.runner(lambda delivery, make=make: make(), options)  # type: ignore[misc]
            self.deliver()
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_settles_itself(self) -> None:
        """
        A message that the handler has settled is left alone, whether the handler
        succeeds or fails then.
        """

        def fails(delivery: Delivery) -> None:
            delivery.nack(requeue=False)
            raise ValueError("no")

        runner = self.runner(lambda delivery: delivery.nack(requeue=False))
        self.deliver()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=False))
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(runner.counts, Counts(settled=1))

        self.setUp()
        runner = self.runner(fails)
        self.deliver()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=False))
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(runner.counts, Counts(settled=1))
        self.assertIn("it had been settled", self.failed())

    def test_unreadable_identity(self) -> None:
        """
        A message whose message-id cannot be decoded is named by the rest.
        """
        options = HandlerOptions(policy=REJECTING)
        self.runner(self.failing(ValueError("no"))[0], options)
        # Flags for message-id alone, and a string that is longer than what follows.
        raw = (0x0080).to_bytes(2, "big") + b"\xff"
        self.deliver(properties=Properties.from_wire(raw))
        self.assertIn("unreadable message-id", self.failed())

    def test_many_tracebacks(self) -> None:
        """
        When many handlers fail at once, the log has few tracebacks, and all lines.
        """
        options = HandlerOptions(policy=REJECTING)
        self.runner(self.failing(ValueError("no"))[0], options)
        for number in range(30):
            self.deliver(number + 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 10)
        texts = [formatEvent(each) for each in self.events if "outcome" in each]
        self.assertEqual(len(texts), 30)
        self.assertIn("ValueError: no; tracebacks are left out", texts[-1])
        self.peer.clock.advance(1)
        self.deliver(31)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class CountsTests(SynchronousTestCase):
    """
    The counts as text.
    """

    def test_words(self) -> None:
        """
        A count of zero is left out, if it is rarely anything else.
        """
        self.assertEqual(
            str(Counts()), "0 acknowledged, 0 requeued, 0 rejected, 0 unfinished"
        )
        self.assertEqual(
            str(Counts(1, 2, 3, 4, 5, 6, 7, 8, 9)),
            "1 acknowledged, 2 requeued, 7 retried, 3 rejected, 8 dead-lettered, 9 "
            "discarded, 4 settled by the handler, 5 handled but not acknowledged in "
            "time, 6 unfinished",
        )

    def test_outcomes(self) -> None:
        """
        Each outcome has a count.
        """
        counts = Counts()
        for outcome in MessageOutcome:
            counts.count(outcome)
        self.assertEqual(counts, Counts(*[1] * len(MessageOutcome)))


RETRIES = FailurePolicy(
    on_error=OnError.RETRY, attempts=3, delays=(5, 30), on_dead=Dead.QUEUE
)
QUEUES = RetryQueues(queue="work", delays=(5, 30), dead_letter_queue="work.dead")


class SendingCase(RunnerCase):
    """
    A runner whose failed messages may be published.
    """

    def setUp(self) -> None:
        super().setUp()
        self.published: list[tuple[Message, Deferred[None]]] = []
        self.restored: list[Deferred[None]] = []
        self.tag = 0

    def republish(self, message: Message) -> Deferred[None]:
        """
        Publish, and have the broker answer later.
        """
        confirmed: Deferred[None] = Deferred()
        self.published.append((message, confirmed))
        return confirmed

    def restore(self, delays: bool) -> Deferred[None]:
        """
        Declare the queues again, and have the broker answer later.
        """
        self.restored.append(Deferred())
        return self.restored[-1]

    def sending(
        self, handler: Handler, more: dict[str, Any] | None = None, **details: Any
    ) -> HandlerRunner:
        """
        A runner with retries and a dead-letter queue.
        """
        options = HandlerOptions(
            **{"policy": RETRIES, "retry_queues": QUEUES, "consumer": "shop", **details}
        )
        return self.runner(
            handler,
            options,
            republish=self.republish,
            restore=self.restore,
            **(more or {}),
        )

    def give(self, headers: dict[str, Any] | None = None, **details: Any) -> int:
        """
        Deliver one more message.
        """
        self.tag += 1
        if headers is not None:
            details["properties"] = Properties(headers=headers, message_id="m1")
        self.peer.deliver(1, "ctag-1.1", self.tag, b"the body", **details)
        return self.tag

    def texts(self) -> list[str]:
        """
        The lines of the log that tell how messages were settled.
        """
        return [formatEvent(each) for each in self.events if "outcome" in each]


def failing(delivery: Delivery) -> None:
    """
    A handler that fails.
    """
    raise ValueError("no such\norder")


class OnceMoreTests(SendingCase):
    """
    The handler is called a second time.
    """

    def setUp(self) -> None:
        super().setUp()
        self.calls: list[tuple[int, bool]] = []

    def handle(self, delivery: Delivery) -> None:
        """
        Fail.
        """
        self.calls.append((delivery.delivery_tag, delivery.redelivered))
        raise ValueError("no")

    def test_dead(self) -> None:
        """
        A message whose handler fails is kept for a while, without a slot; then the
        handler is called again, and knows it.  When it fails again, the message is
        dead.
        """
        policy = FailurePolicy(on_dead=Dead.QUEUE)
        runner = self.sending(self.handle, policy=policy, concurrency=1)
        self.give()
        self.give()
        self.assertEqual(self.calls, [(1, False), (2, False)])
        self.assertEqual((runner.running, runner.held, runner.unsettled), (0, 2, 2))
        self.assertEqual(self.peer.listen(), [])
        self.peer.clock.advance(4.9)
        self.assertEqual(len(self.calls), 2)
        self.peer.clock.advance(0.1)
        self.assertEqual(self.calls[2:], [(1, True), (2, True)])
        self.assertEqual([each.routing_key for each, _ in self.published],
                         ["work.dead"] * 2)  # fmt: skip
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(retried=2, dead_lettered=1))
        self.flushLoggedErrors(ValueError)
        self.assertIn("its handler is called again in 5 s", self.texts()[0])

    def test_delivered_before(self) -> None:
        """
        A message that was delivered before has not failed: its handler is called twice.
        """
        self.sending(self.handle, policy=FailurePolicy(on_dead=Dead.QUEUE))
        self.give({"x-delivery-count": 3}, redelivered=True)
        self.assertEqual(self.published, [])
        self.peer.clock.advance(5)
        self.assertEqual((len(self.calls), len(self.published)), (2, 1))
        self.flushLoggedErrors(ValueError)

    def test_order(self) -> None:
        """
        Other messages with its key wait behind it.
        """
        runner = self.sending(
            self.handle, policy=FailurePolicy(), order_by="routing-key"
        )
        for key in "aab":
            self.give(routing_key=key)
        self.assertEqual([tag for tag, _ in self.calls], [1, 3])
        self.assertEqual((runner.held, runner.waiting), (2, 1))
        runner.drop_stale()
        self.assertEqual(runner.unsettled, 3)
        self.flushLoggedErrors(ValueError)

    def test_stop(self) -> None:
        """
        A message that is kept goes back when the consumer stops, and one that fails
        then does at once.
        """
        runner = self.sending(self.handle, policy=FailurePolicy())
        self.give()
        runner.closing = True
        self.assertEqual(runner.hand_back(), 1)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.give()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        self.assertEqual(runner.counts, Counts(retried=1, requeued=1))
        self.assertEqual(runner.unsettled, 0)
        self.peer.clock.advance(5)
        self.assertEqual(len(self.calls), 2)
        self.flushLoggedErrors(ValueError)

    def test_stale(self) -> None:
        """
        A message that is kept is forgotten when its channel ends.
        """
        runner = self.sending(self.handle, policy=FailurePolicy())
        self.give()
        self.give()
        self.peer.drop()
        self.peer.clock.advance(5)
        self.assertEqual((len(self.calls), runner.unsettled), (2, 0))
        self.flushLoggedErrors(ValueError)

    def test_kept(self) -> None:
        """
        A dead message without a place is kept, and tried again with growing delays.
        """
        runner = self.sending(self.handle, policy=FailurePolicy())
        self.give()
        for delay, calls in ((5, 2), (9, 2), (1, 3), (20, 4)):
            self.peer.clock.advance(delay)
            self.assertEqual(len(self.calls), calls)
        self.assertEqual((self.peer.listen(), runner.held), ([], 1))
        self.flushLoggedErrors(ValueError)


class RetryTests(SendingCase):
    """
    Failed messages are published: to a delay queue, then to the dead-letter queue.
    """

    def test_retry(self) -> None:
        """
        The message is published to the delay queue; the original is acknowledged when
        the broker has confirmed that, and not before.
        """
        runner = self.sending(failing)
        self.give({"customer": 7}, exchange="shop", routing_key="order.new")
        [(message, confirmed)] = self.published
        self.assertEqual(message.exchange, "work.retry.5s")
        self.assertEqual(message.routing_key, "order.new")
        self.assertEqual(message.body, b"the body")
        self.assertTrue(message.mandatory)
        headers = dict(message.properties.headers or {})
        self.assertEqual(headers["customer"], 7)
        self.assertEqual(headers["x-retry-count"], 1)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual((runner.running, runner.held), (0, 1))
        settled = runner.when_settled()
        self.assertNoResult(settled)
        confirmed.callback(None)
        self.successResultOf(settled)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(retried=1))
        self.assertEqual(runner.unsettled, 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        [event] = [each for each in self.events if "log_failure" in each]
        self.assertEqual(event["log_level"].name, "warn")
        self.assertIn("retried in 5 s", formatEvent(event))
        self.assertEqual(event["consumer"], "shop")
        self.assertEqual(event["outcome"], "retry")
        self.assertEqual(event["routing_key"], "order.new")
        self.assertEqual(event["message_id"], "m1")

    def test_dead_letter(self) -> None:
        """
        After the last attempt it goes to the dead-letter queue, with the error.
        """
        runner = self.sending(failing)
        self.give({"x-retry-count": 2})
        [(message, confirmed)] = self.published
        self.assertEqual((message.exchange, message.routing_key), ("", "work.dead"))
        headers = dict(message.properties.headers or {})
        self.assertEqual(headers["x-error"], "no such\\norder")
        self.assertEqual(headers["x-error-type"], "builtins.ValueError")
        self.assertEqual(headers["x-error-tries"], 3)
        self.assertEqual(headers["x-error-consumer"], "shop")
        self.assertIn("in failing", headers["x-error-traceback"])
        self.assertNotIn("x-retry-count", headers)
        confirmed.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(dead_lettered=1))
        self.assertIn("dead-lettered to work.dead", self.failed())

    def test_slots(self) -> None:
        """
        Messages that wait for the broker's confirm take no slot.
        """
        runner = self.sending(failing, concurrency=1)
        for _ in range(5):
            self.give()
        self.assertEqual(len(self.published), 5)
        self.assertEqual((runner.running, runner.held, runner.waiting), (0, 5, 0))
        self.flushLoggedErrors(ValueError)

    def test_broker_delays(self) -> None:
        """
        Where the queue itself delays, the message is rejected: that is what the broker
        counts.  It is dead-lettered when the broker has counted enough.
        """
        policy = FailurePolicy(
            on_error=OnError.RETRY,
            attempts=3,
            delays=(5,),
            on_dead=Dead.QUEUE,
            max_deliveries=2,
        )
        runner = self.sending(failing, policy=policy)
        runner.broker_delays = True
        self.give({"x-delivery-count": 1}, redelivered=True)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual(runner.counts, Counts(retried=1))
        self.give({"x-delivery-count": 2}, redelivered=True)
        self.assertEqual(self.published[0][0].routing_key, "work.dead")
        self.published[0][1].callback(None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_not_confirmed(self) -> None:
        """
        A message that the broker does not take is held, and published again with
        growing delays; the handler is not called again.  Health tells why.
        """
        calls: list[Delivery] = []

        def handler(delivery: Delivery) -> None:
            if delivery.delivery_tag == 1:
                calls.append(delivery)
                raise ValueError("no")

        runner = self.sending(handler)
        self.give()
        for delay in (5, 10, 20, 40, 60, 60):
            self.give()  # the broker lives
            self.peer.expect(BasicAck)
            self.published[-1][1].errback(Nacked())
            self.assertEqual(runner.problem, str(Nacked()))
            count = len(self.published)
            self.peer.clock.advance(delay - 0.1)
            self.assertEqual(len(self.published), count)
            self.peer.clock.advance(0.1)
            self.assertEqual(len(self.published), count + 1)
        self.assertEqual(len(calls), 1)
        [text] = [each for each in self.texts() if "cannot be published" in each]
        self.published[-1][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(acknowledged=6, retried=1))
        self.assertEqual((runner.problem, runner.unsettled), ("", 0))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_never_confirmed(self) -> None:
        """
        After ten minutes it goes back: the broker would not wait for ever.
        """

        def handler(delivery: Delivery) -> None:
            if delivery.delivery_tag == 1:
                raise ValueError("no")

        runner = self.sending(handler)
        self.give()
        while not self.published[-1][1].called:
            self.give()  # the broker lives
            self.peer.expect(BasicAck)
            self.published[-1][1].errback(Nacked())
            self.peer.clock.advance(60)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.assertEqual(runner.counts.requeued, 1)
        self.assertEqual(runner.unsettled, 0)
        self.flushLoggedErrors(ValueError)

    def test_queue_deleted(self) -> None:
        """
        A delay queue that is missing is declared again, and the message published
        again at once.
        """
        for error in (
            Returned(Message("", "work.dead", b""), 312, "NO_ROUTE"),
            NotFound("no exchange", reply_code=404),
        ):
            self.setUp()
            runner = self.sending(failing)
            self.give()
            self.published[0][1].errback(error)
            self.assertEqual((len(self.restored), len(self.published)), (1, 1))
            self.restored[0].callback(None)
            self.assertEqual(len(self.published), 2)
            self.published[1][1].callback(None)
            self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
            self.assertEqual(runner.counts, Counts(retried=1))
            self.flushLoggedErrors(ValueError)

    def test_queue_not_restored(self) -> None:
        """
        When the broker refuses to declare it, the message is held, and health tells
        why.  The same when it is missing again.
        """
        runner = self.sending(failing)
        self.give()
        self.published[0][1].errback(NotFound("no exchange", reply_code=404))
        self.restored[0].errback(NotFound("refused", reply_code=404))
        self.assertEqual(len(self.published), 2)
        self.published[1][1].errback(NotFound("still no exchange", reply_code=404))
        self.assertIn("still no exchange", runner.problem)
        self.peer.clock.advance(10)
        self.assertEqual(len(self.published), 3)
        self.published[2][1].errback(NotFound("no exchange", reply_code=404))
        self.restored[1].errback(ValueError("gone"))
        self.assertIn("gone", runner.problem)
        self.assertEqual((self.peer.listen(), runner.held), ([], 1))
        self.flushLoggedErrors(ValueError)

    def test_cannot_be_written(self) -> None:
        """
        A message that AMQP cannot carry with our headers is dead-lettered without its
        own.
        """
        runner = self.sending(failing)
        self.give({"a": 1})
        self.published[0][1].errback(EncodeError("headers", "too large"))
        message = self.published[1][0]
        self.assertEqual(message.routing_key, "work.dead")
        self.assertNotIn("a", message.properties.headers or {})
        self.published[1][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(dead_lettered=1))
        self.flushLoggedErrors(ValueError)

    def test_cannot_be_written_at_all(self) -> None:
        """
        If that cannot be written either, it is held; without a dead-letter queue it is
        rejected.
        """
        runner = self.sending(failing)
        self.give()
        self.published[0][1].errback(EncodeError("headers", "too large"))
        self.published[1][1].errback(EncodeError("body", "too large"))
        self.assertEqual((self.peer.listen(), runner.held), ([], 1))
        self.assertIn("too large", runner.problem)
        self.setUp()
        policy = FailurePolicy(
            on_error=OnError.RETRY, attempts=3, delays=(5,), on_dead=Dead.EXCHANGE
        )
        runner = self.sending(failing, policy=policy)
        self.give()
        self.published[0][1].errback(EncodeError("headers", "too large"))
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual((runner.counts, runner.held), (Counts(rejected=1), 0))
        self.flushLoggedErrors(ValueError)

    def test_undecodable(self) -> None:
        """
        A message whose headers cannot be decoded is dead at once, whatever its handler
        has failed with, and is logged once.
        """
        runner = self.sending(failing)
        self.give(properties=BROKEN)
        [(message, confirmed)] = self.published
        self.assertEqual(message.routing_key, "work.dead")
        confirmed.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(dead_lettered=1))
        self.failed()
        self.assertTrue(self.channel.is_open)

    def test_undecodable_for_the_handler(self) -> None:
        """
        The same when the handler fails with `UndecodableProperty`.
        """

        def handler(delivery: Delivery) -> None:
            raise UndecodableProperty("headers", "broken", b"")

        self.sending(handler)
        self.give()
        self.assertEqual(self.published[0][0].routing_key, "work.dead")
        self.published[0][1].callback(None)
        self.failed(UndecodableProperty)

    def test_undecodable_key(self) -> None:
        """
        The handler is not called for a message whose key cannot be decoded.
        """
        seen: list[Delivery] = []
        runner = self.sending(seen.append, order_by="header:customer")
        self.give(properties=BROKEN)
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual((seen, runner.unsettled), ([], 0))
        self.failed(UndecodableProperty)

    def test_gone_while_publishing(self) -> None:
        """
        When the channel ends before the confirm comes, the broker delivers it again.
        """
        runner = self.sending(failing)
        self.give()
        self.peer.drop()
        self.published[0][1].errback(Nacked())
        self.assertEqual(runner.counts, Counts(stale=1))
        self.assertIn("the broker delivers it again", self.failed())

    def test_stop_while_publishing(self) -> None:
        """
        A message whose confirm takes too long, when the consumer stops, goes back; a
        later confirm changes nothing.
        """
        runner = self.sending(failing)
        self.give()
        self.give()
        self.published[1][1].errback(Nacked())
        runner.closing = True
        self.assertEqual(runner.hand_back(), 1)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        runner.abandon()
        self.assertEqual(runner.stop_publishing(), 1)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(runner.counts, Counts(requeued=1))
        self.assertEqual(runner.unsettled, 0)
        self.peer.clock.advance(6)
        self.assertEqual(self.peer.listen(), [])
        self.flushLoggedErrors()

    def test_wrong_options(self) -> None:
        """
        Options that would lose messages are refused.
        """
        for policy in (RETRIES, FailurePolicy(on_dead=Dead.QUEUE)):
            self.assertRaises(ValueError, HandlerOptions, policy=policy)
        retrying = FailurePolicy(on_error=OnError.RETRY, delays=(1,))
        self.assertRaises(ValueError, HandlerOptions, policy=retrying)

    def test_discarded(self) -> None:
        """
        A message is discarded only if the policy says so; then the log says that.
        """
        options = HandlerOptions(policy=FailurePolicy(on_error=OnError.DROP))
        runner = self.runner(failing, options)
        self.give()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(discarded=1))
        self.assertIn("discarded", self.failed())


class SuspectTests(SendingCase):
    """
    Messages that may end the process.
    """

    def setUp(self) -> None:
        super().setUp()
        self.handled: list[tuple[int, Deferred[None]]] = []

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that ends when the test says so.
        """
        ending: Deferred[None] = Deferred()
        self.handled.append((delivery.delivery_tag, ending))
        return ending

    def test_alone(self) -> None:
        """
        A message that was often delivered and never settled runs alone, before those
        that wait.
        """
        policy = FailurePolicy(on_dead=Dead.QUEUE, max_deliveries=4)
        runner = self.sending(self.handle, policy=policy)
        self.give()
        for count in (2, 1, 3):
            self.give({"x-delivery-count": count}, redelivered=True)
        self.give()
        self.assertEqual([tag for tag, _ in self.handled], [1])
        self.assertEqual((runner.running, runner.waiting), (1, 4))
        self.handled[0][1].callback(None)
        self.assertEqual([tag for tag, _ in self.handled], [1, 2])
        self.assertEqual((runner.running, runner.waiting), (1, 3))
        self.handled[1][1].errback(Reject())
        self.assertEqual([tag for tag, _ in self.handled], [1, 2, 4])
        self.handled[2][1].callback(None)
        self.assertEqual([tag for tag, _ in self.handled], [1, 2, 4, 3, 5])

    def test_used_up(self) -> None:
        """
        A message that was delivered too often is dead: its handler is not called.
        """
        policy = FailurePolicy(on_dead=Dead.QUEUE, max_deliveries=20)
        runner = self.sending(self.handle, policy=policy)
        self.give({"x-delivery-count": 19}, redelivered=True)
        self.handled[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.give({"x-delivery-count": 20}, redelivered=True)
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(2))
        self.assertEqual(len(self.handled), 1)
        self.assertEqual(runner.counts, Counts(acknowledged=1, dead_lettered=1))
        self.assertIn("dead-lettered to work.dead", self.failed(TooManyDeliveries))

    def test_forged(self) -> None:
        """
        The count of a message that was not delivered before is its publisher's own.
        """
        policy = FailurePolicy(on_dead=Dead.QUEUE, max_deliveries=2)
        self.sending(self.handle, policy=policy)
        self.give({"x-delivery-count": 9})
        self.assertEqual(len(self.handled), 1)

    def test_kept(self) -> None:
        """
        Without a place for dead messages it is kept, and its handler never called.
        """
        policy = FailurePolicy(max_deliveries=2)
        runner = self.sending(self.handle, policy=policy)
        self.give({"x-delivery-count": 9}, redelivered=True)
        self.peer.clock.advance(5)
        self.assertEqual((self.handled, runner.held), ([], 1))
        self.flushLoggedErrors(TooManyDeliveries)

    def test_stale(self) -> None:
        """
        One that waits is forgotten when its channel ends.
        """
        policy = FailurePolicy(max_deliveries=2)
        runner = self.sending(self.handle, policy=policy)
        self.give()
        self.give({"x-delivery-count": 1}, redelivered=True)
        self.peer.drop()
        runner.drop_stale()
        self.assertEqual((runner.running, runner.waiting), (1, 0))
        self.handled[0][1].callback(None)
        self.assertEqual(len(self.handled), 1)

    def test_hand_back(self) -> None:
        """
        One that waits goes back when the consumer stops.
        """
        policy = FailurePolicy(max_deliveries=2)
        runner = self.sending(self.handle, policy=policy)
        self.give({"x-delivery-count": 1}, redelivered=True)
        self.give({"x-delivery-count": 1}, redelivered=True)
        self.assertEqual(runner.hand_back(), 1)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        self.handled[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))


class SayingTests(SendingCase):
    """
    What a handler may say by raising it.
    """

    def said(self, error: Exception, **details: Any) -> HandlerRunner:
        """
        Deliver a message, whose handler raises this.
        """

        def handler(delivery: Delivery) -> None:
            raise error

        runner = self.sending(handler, **details)
        self.give()
        return runner

    def test_reject(self) -> None:
        """
        `Reject` dead-letters the message at once; without a dead-letter queue it is
        rejected.  No traceback is logged.
        """
        self.said(Reject("no customer"))
        self.assertEqual(self.published[0][0].routing_key, "work.dead")
        self.setUp()
        runner = self.said(Reject("no customer"), policy=FailurePolicy())
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(rejected=1))
        [text] = self.texts()
        self.assertIn("The handler raised Reject: no customer for a message", text)

    def test_requeue(self) -> None:
        """
        `Requeue` rejects, so that quorum queues count it.
        """
        runner = self.said(Requeue())
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual(runner.counts, Counts(requeued=1))

    def test_retry(self) -> None:
        """
        `Retry` retries, whatever errors mean.
        """
        policy = FailurePolicy(on_error=OnError.REJECT, attempts=2, delays=(5,))
        self.said(Retry(), policy=policy)
        self.assertEqual(self.published[0][0].exchange, "work.retry.5s")

    def test_halt(self) -> None:
        """
        `Halt` gives the message back, which no queue counts, or acknowledges it, and
        tells the daemon.
        """
        for done, kind in ((False, BasicNack), (True, BasicAck)):
            self.setUp()
            halts: list[Halt] = []

            def handler(delivery: Delivery, done: bool = done) -> None:
                raise Halt("disk full", done=done, status=3)

            self.runner(handler, halted=halts.append)
            self.give()
            self.peer.expect(kind)
            self.assertEqual([each.status for each in halts], [3])

    def test_halt_on_error(self) -> None:
        """
        Any error may mean that.
        """
        halts: list[Halt] = []
        options = HandlerOptions(policy=FailurePolicy(on_error=OnError.HALT))
        runner = self.runner(failing, options, halted=halts.append)
        self.give()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.assertEqual(runner.counts, Counts(requeued=1))
        self.assertIn("ValueError", str(halts[0]))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_halt_when_stale(self) -> None:
        """
        `Halt` counts also when the channel has ended.
        """
        halts: list[Halt] = []
        ending: Deferred[None] = Deferred()
        runner = self.runner(lambda _: ending, halted=halts.append)
        self.give()
        self.peer.drop()
        ending.errback(Halt())
        self.assertEqual((len(halts), runner.counts), (1, Counts(stale=1)))

    def test_asyncio(self) -> None:
        """
        A handler that needs asyncio, where there is none, ends the daemon with advice:
        the message has not failed.
        """
        halts: list[Halt] = []

        async def handler(delivery: Delivery) -> None:
            await asyncio.sleep(1)

        runner = self.runner(handler, halted=halts.append)
        self.give()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.assertEqual(halts[0].status, 78)
        self.assertIn("--reactor=asyncio", str(halts[0]))
        self.assertEqual(runner.counts, Counts(requeued=1))
        self.flushLoggedErrors(RuntimeError)


class SlotTests(SendingCase):
    """
    How many handlers run at the same time, in which order, and for how long.
    """

    def setUp(self) -> None:
        super().setUp()
        self.handled: list[tuple[Delivery, Deferred[None]]] = []

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that ends when the test says so.
        """
        ending: Deferred[None] = Deferred()
        self.handled.append((delivery, ending))
        return ending

    def tags(self) -> list[int]:
        """
        The delivery tags of those that handlers were called for.
        """
        return [delivery.delivery_tag for delivery, _ in self.handled]

    def test_concurrency(self) -> None:
        """
        No more handlers run than may; the next one is called when one has ended.
        """
        runner = self.runner(self.handle, HandlerOptions(concurrency=2))
        for _ in range(4):
            self.give()
        self.assertEqual((self.tags(), runner.running, runner.waiting), ([1, 2], 2, 2))
        self.handled[1][1].callback(None)
        self.assertEqual(self.tags(), [1, 2, 3])
        runner.change(HandlerOptions(concurrency=3))
        self.assertEqual(self.tags(), [1, 2, 3, 4])
        for _, ending in self.handled:
            if not ending.called:
                ending.callback(None)
        self.assertEqual(runner.counts, Counts(acknowledged=4))

    def test_ordered(self) -> None:
        """
        Messages with the same key run one after another, others beside them.
        """
        for order in ("routing-key", "header:customer"):
            self.setUp()
            self.runner(self.handle, HandlerOptions(order_by=order))
            for key in "aab":
                self.give({"customer": key}, routing_key=key)
            self.give({"customer": [1]}, routing_key="c")
            self.assertEqual(self.tags(), [1, 3, 4])
            self.handled[0][1].callback(None)
            self.assertEqual(self.tags(), [1, 3, 4, 2])

    def test_stale(self) -> None:
        """
        What waits when its channel ends is forgotten; what runs ends, and is stale.
        """
        for order in ("", "routing-key"):
            self.setUp()
            options = HandlerOptions(concurrency=1, order_by=order)
            runner = self.runner(self.handle, options)
            for _ in range(4):
                self.give()
            self.peer.drop()
            runner.drop_stale()
            self.assertEqual((runner.running, runner.waiting), (1, 0))
            self.handled[0][1].callback(None)
            self.assertEqual((self.tags(), runner.counts), ([1], Counts(stale=1)))

    def test_never_stale(self) -> None:
        """
        A stale delivery is given to no handler, also if nobody has told the runner.
        """
        runner = self.runner(self.handle, HandlerOptions(concurrency=1))
        for _ in range(3):
            self.give()
        self.peer.drop()
        self.handled[0][1].callback(None)
        self.assertEqual((self.tags(), runner.unsettled), ([1], 0))

    def test_hand_back(self) -> None:
        """
        What no handler was called for goes back.
        """
        runner = self.runner(self.handle, HandlerOptions(concurrency=1))
        for _ in range(3):
            self.give()
        self.assertEqual(runner.hand_back(), 2)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(3, requeue=True))
        self.handled[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(self.tags(), [1])

    def test_abandoned(self) -> None:
        """
        A handler that is given up is cancelled, after its message was given back; its
        outcome does not count any more.
        """
        outcomes: list[str] = []

        async def handler(delivery: Delivery) -> None:
            try:
                await Deferred()
            except CancelledError:
                outcomes.append("cancelled")
                if delivery.redelivered:
                    return
                raise

        runner = self.runner(handler)
        self.give()
        self.give(redelivered=True)
        runner.abandon()
        self.assertEqual(outcomes, ["cancelled", "cancelled"])
        self.assertEqual(runner.counts, Counts(unfinished=2))
        self.assertEqual(runner.running, 0)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.peer.expect(BasicNack)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_timeout(self) -> None:
        """
        A handler that takes too long is cancelled, and has failed.
        """
        options = HandlerOptions(timeout=10, policy=REJECTING)
        runner = self.runner(self.handle, options)
        self.give()
        self.peer.clock.advance(9)
        self.assertEqual((self.peer.listen(), runner.idle_seconds()), ([], 9))
        self.peer.clock.advance(1)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual((runner.running, runner.idle_seconds()), (0, 0))
        self.assertIn("dead-lettered", self.failed(HandlerTimeout))

    def test_timeout_and_success(self) -> None:
        """
        A handler that succeeds when it is cancelled has succeeded.
        """

        async def handler(delivery: Delivery) -> None:
            try:
                await Deferred()
            except CancelledError:
                return

        runner = self.runner(handler, HandlerOptions(timeout=10, policy=REJECTING))
        self.give()
        self.peer.clock.advance(10)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(acknowledged=1))

    def test_not_cancelled(self) -> None:
        """
        A handler that goes on when it is cancelled keeps its slot until it ends; its
        message is settled meanwhile.
        """
        ending: Deferred[None] = Deferred()

        async def handler(delivery: Delivery) -> None:
            try:
                await Deferred()
            except CancelledError:
                await ending

        options = HandlerOptions(timeout=10, concurrency=1, policy=REJECTING)
        runner = self.runner(handler, options)
        self.give()
        self.give()
        self.peer.clock.advance(10)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual((runner.running, runner.waiting), (1, 1))
        ending.callback(None)
        self.assertEqual((runner.running, runner.waiting), (1, 0))
        self.failed(HandlerTimeout)

    def test_not_cancelled_once_more(self) -> None:
        """
        It is not called again before it has ended.
        """
        ending: Deferred[None] = Deferred()
        calls: list[Delivery] = []

        async def handler(delivery: Delivery) -> None:
            calls.append(delivery)
            if delivery.redelivered:
                return
            try:
                await Deferred()
            except CancelledError:
                await ending

        runner = self.runner(handler, HandlerOptions(timeout=10))
        self.give()
        self.peer.clock.advance(60)
        self.assertEqual((len(calls), runner.running, runner.held), (1, 1, 0))
        ending.callback(None)
        self.assertEqual((runner.running, runner.held), (0, 1))
        self.peer.clock.advance(5)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(len(calls), 2)
        self.failed(HandlerTimeout)

    def test_canceller_fails(self) -> None:
        """
        A Deferred that cannot be cancelled does no harm.
        """

        def canceller(_: object) -> None:
            raise KeyboardInterrupt

        def handler(delivery: Delivery) -> Deferred[None]:
            return Deferred(canceller)

        self.addCleanup(self.flushLoggedErrors, KeyboardInterrupt)
        runner = self.runner(handler, HandlerOptions(timeout=10, policy=REJECTING))
        self.give()
        self.peer.clock.advance(10)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.running, 1)
        self.assertEqual(len(self.flushLoggedErrors(KeyboardInterrupt)), 1)
        self.assertEqual(len(self.flushLoggedErrors(HandlerTimeout)), 1)

    def test_in_time(self) -> None:
        """
        A handler that ends in time leaves no timer behind.
        """
        self.runner(self.handle, HandlerOptions(timeout=10))
        before = len(self.peer.clock.getDelayedCalls())
        self.give()
        self.handled[0][1].callback(None)
        self.assertLessEqual(len(self.peer.clock.getDelayedCalls()), before + 1)
        self.peer.clock.advance(11)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_many_at_once(self) -> None:
        """
        Hundreds that wait, and end at once, are no recursion.
        """
        first: Deferred[None] = Deferred()

        def handler(delivery: Delivery) -> Deferred[None]:
            return first if delivery.delivery_tag == 1 else succeed(None)

        runner = self.runner(handler, HandlerOptions(concurrency=1))
        for _ in range(900):
            self.give()
        first.callback(None)
        self.assertEqual(runner.counts, Counts(acknowledged=900))

    def test_measured(self) -> None:
        """
        How long handlers take is measured, of those too that fail, and when the last
        one was called.
        """
        histogram = Histogram((1.0, 5.0))
        options = HandlerOptions(log_messages=True, policy=REJECTING)
        runner = self.runner(self.handle, options, histogram=histogram)
        self.assertIsNone(runner.seconds_since_last())
        self.give()
        self.peer.clock.advance(2)
        self.assertEqual(runner.seconds_since_last(), 2)
        self.handled[0][1].callback(None)
        self.assertEqual((histogram.counts, histogram.total), ([0, 1, 0], 2))
        [event] = [each for each in self.events if "outcome" in each]
        self.assertEqual((event["duration"], event["outcome"]), (2, "ack"))
        self.give()
        self.handled[1][1].errback(ValueError("no"))
        self.assertEqual(histogram.counts, [1, 1, 0])
        self.flushLoggedErrors(ValueError)

    def test_idle(self) -> None:
        """
        A runner that settles nothing gets on with nothing, however many handlers end.
        """
        runner = self.runner(self.handle, HandlerOptions(concurrency=1))
        self.give()
        self.peer.clock.advance(5)
        self.assertEqual(runner.idle_seconds(), 5)
        self.handled[0][1].callback(None)
        self.assertEqual(runner.idle_seconds(), 0)
        self.peer.clock.advance(5)
        self.give()
        self.peer.drop()
        self.peer.clock.advance(3)
        self.handled[1][1].callback(None)
        self.assertEqual(runner.counts, Counts(acknowledged=1, stale=1))

    def test_warning(self) -> None:
        """
        A delivery that is not settled for long is logged, once, before the broker ends
        the consumer.
        """
        runner = self.runner(self.handle, HandlerOptions(concurrency=1))
        self.give()
        self.peer.clock.advance(60)
        self.give()
        runner.warn_of_timeouts(100, 200)
        self.assertEqual(self.texts(), [])
        self.peer.clock.advance(50)
        runner.warn_of_timeouts(100, 200)
        runner.warn_of_timeouts(100, 200)
        [text] = self.texts()
        self.assertIn("1 messages from queue work are not settled for 110 s", text)
        self.assertIn("its handler is running", text)
        self.handled[0][1].callback(None)
        self.peer.clock.advance(60)
        runner.warn_of_timeouts(100, 200)
        self.assertEqual(len(self.texts()), 2)


class StreamTests(SendingCase):
    """
    A stream takes nothing back, and RabbitMQ 3 closes the connection for the attempt.
    """

    def test_acks_alone(self) -> None:
        """
        Whatever a handler does with a message from a stream, nothing but ``basic.ack``
        is sent, also if the options do not say that the queue is a stream.
        """
        for error in (ValueError("no"), Reject(), Requeue(), Retry(), Halt()):
            for policy in (
                REJECTING,
                FailurePolicy(),
                FailurePolicy(on_error=OnError.HALT),
            ):
                self.setUp()

                def handler(delivery: Delivery, error: Exception = error) -> None:
                    raise error

                runner = self.runner(handler, HandlerOptions(policy=policy))
                self.give({"x-stream-offset": Int64(7)})
                runner.hand_back()
                runner.abandon()
                said = [each.method for each in self.peer.listen()]
                self.assertIn(said, ([], [BasicAck(1)]))
                self.flushLoggedErrors(ValueError)


class ThreadTests(TestCase):
    """
    Handlers in threads.
    """

    timeout = 120.0

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.case = SendingCase("setUp")
        self.case.setUp()
        self.addCleanup(self.case.doCleanups)
        self.threads = ThreadRunner(reactor, 1, "test")  # type: ignore[arg-type]
        self.addCleanup(self.threads.stop)
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.seen: list[int] = []

    def handle(self, delivery: Delivery) -> None:
        """
        A handler that blocks until the test lets it go on.
        """
        self.seen.append(delivery.delivery_tag)
        self.begun.release()
        self.go_on.acquire(timeout=60)
        if delivery.body == b"bad":
            raise SystemExit(3)

    def runner(self, **options: Any) -> HandlerRunner:
        """
        A runner with one thread.
        """
        return self.case.sending(self.handle, {"threads": self.threads}, **options)

    async def test_settles(self) -> None:
        """
        The message is acknowledged when the handler has ended, in the reactor's thread.
        As many handlers run as there are threads.
        """
        runner = self.runner()
        self.case.give()
        self.case.give()
        self.assertEqual((runner.running, runner.waiting), (1, 1))
        self.go_on.release(2)
        await runner.when_idle()
        self.assertEqual(self.case.peer.expect(BasicAck), BasicAck(1))
        await runner.when_idle()
        self.assertEqual(runner.counts.acknowledged + runner.running, 2)
        await runner.when_idle()
        self.assertEqual(self.seen, [1, 2])

    async def test_awaits(self) -> None:
        """
        What a handler in a thread returns is awaited in the reactor's thread.
        """
        names: list[str] = []

        async def coroutine() -> None:
            names.append(threading.current_thread().name)

        runner = self.case.sending(
            lambda delivery: coroutine(), {"threads": self.threads}
        )
        self.case.give()
        await runner.when_idle()
        self.assertEqual(names, [threading.current_thread().name])
        self.assertEqual(runner.counts, Counts(acknowledged=1))

    async def test_time_begins_with_the_handler(self) -> None:
        """
        The time limit of a handler begins when a thread calls it.
        """
        first = self.threads.run(lambda _: self.go_on.acquire(timeout=60), None)
        runner = self.runner(timeout=10)
        self.case.give()
        self.case.peer.clock.advance(60)
        self.assertEqual((runner.running, runner.counts), (0, Counts()))
        self.go_on.release(2)
        await first
        while not self.seen or runner.unsettled:
            await runner.when_idle()
            await self.threads.run(lambda _: None, None)
        self.assertEqual(runner.counts, Counts(acknowledged=1))

    async def test_not_ours_any_more(self) -> None:
        """
        A message that waits for a thread when its channel ends is not handled.
        """
        first = self.threads.run(lambda _: self.go_on.acquire(timeout=60), None)
        runner = self.runner()
        self.case.give()
        self.case.peer.drop()
        runner.drop_stale()
        self.go_on.release()
        await first
        await self.threads.run(lambda _: None, None)
        self.assertEqual((self.seen, runner.unsettled), ([], 0))

    async def test_too_long(self) -> None:
        """
        A handler in a thread cannot be cancelled: its message is settled, and its
        thread and slot are free when it ends.
        """
        runner = self.runner(timeout=10)
        self.case.give()
        self.begun.acquire(timeout=60)
        self.case.peer.clock.advance(10)
        [(message, _)] = self.case.published
        self.assertEqual(message.exchange, "work.retry.5s")
        self.assertEqual((runner.running, runner.held), (1, 1))
        idle = runner.when_idle()
        self.go_on.release()
        await idle
        self.assertEqual((runner.running, runner.held), (0, 1))
        self.case.published[0][1].callback(None)
        self.assertEqual(runner.counts, Counts(retried=1))
        self.flushLoggedErrors(HandlerTimeout)
