# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
Handlers at work: each message is answered for, as the policy says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    inlineCallbacks,
    succeed,
)
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.consumer import Consumer, Handler
from txamqp091.errors import EncodeError, Nacked, UndecodableProperty
from txamqp091.message import Delivery, Message
from txamqp091.test.support.peer import Peer
from txamqp091.wire.properties import Properties
from txamqp091.wire.spec import BasicAck, BasicNack, BasicReject
from txamqp091.worker.counts import Counts, Histogram
from txamqp091.worker.failure_policy import (
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    Reject,
    Requeue,
    Retry,
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


class WorkCase(SynchronousTestCase):
    """
    A consumer of a peer in memory, whose deliveries are worked on.
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
        A handler's work, as a consumer's.
        """
        runner = HandlerRunner(handler, "work", self.peer.clock, options, **details)
        consuming: Deferred[Consumer] = self.channel.basic_consume(
            "work", runner.take, prefetch=0
        )
        self.peer.serve()
        self.successResultOf(consuming)
        return runner

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


class WorkTests(WorkCase):
    """
    A handler is run, and its message answered for.
    """

    def succeeding(self) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind.
        """

        async def coroutine(delivery: Delivery) -> None:
            pass

        return [take, shop.take, inline, coroutine, lambda delivery: 42]

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
        It is acknowledged when the handler has finished, not before.
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

    def failing(self) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind that fail.
        """

        def plain(delivery: Delivery) -> None:
            raise ValueError("no")

        async def coroutine(delivery: Delivery) -> None:
            raise ValueError("no")

        def deferred(delivery: Delivery) -> Deferred[None]:
            failing: Deferred[None] = Deferred()
            failing.errback(ValueError("no"))
            return failing

        return [plain, coroutine, deferred]

    def test_first_failure(self) -> None:
        """
        A message goes back the first time that its handler fails.  The log says which
        message it was, and nothing of what is in it.
        """
        for handler in self.failing():
            self.setUp()
            runner = self.runner(handler)
            self.deliver(properties=Properties(message_id="m\n1"), exchange="shop")
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
            self.assertEqual(runner.counts, Counts(requeued=1))
            self.assertEqual(
                self.failed(),
                "A handler failed with a message of the queue work: it goes back, to "
                "be tried once more (delivery tag 1, message-id 'm\\n1', exchange "
                "'shop', routing key 'work')",
            )

    def test_second_failure(self) -> None:
        """
        A message is rejected the second time.
        """
        for handler in self.failing():
            self.setUp()
            runner = self.runner(handler)
            self.deliver(redelivered=True)
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
            self.assertEqual(runner.counts, Counts(rejected=1))
            self.assertIn("it was rejected", self.failed())

    def test_undecodable(self) -> None:
        """
        Criterion 6: a message with a property that cannot be decoded is rejected at
        once, and logged once; the consumer goes on.
        """

        def handler(delivery: Delivery) -> None:
            raise UndecodableProperty("headers", "broken", b"")

        runner = self.runner(handler)
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertIn("it was rejected", self.failed(UndecodableProperty))
        self.assertEqual(runner.counts, Counts(rejected=1))
        self.assertTrue(self.channel.is_open)

    def test_exit(self) -> None:
        """
        A handler that calls ``sys.exit`` has failed, and ended nothing.
        """
        runner = self.runner(lambda delivery: sys.exit(3))
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(runner.counts, Counts(requeued=1))

    def test_foreign_awaitable(self) -> None:
        """
        What nobody would wait for is a failure: an acknowledgement would come before
        the work.
        """

        class Future:
            def __await__(self) -> Generator[Any, Any, None]:
                yield

        self.runner(lambda delivery: Future())
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertIn("it goes back", self.failed(TypeError))

    def test_answers_itself(self) -> None:
        """
        A handler that has answered is respected, whether it succeeds or fails then.
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
        self.assertIn("it had been answered for", self.failed())

    def test_stale(self) -> None:
        """
        What ends after its channel has is answered for by the broker, which delivers
        it again.
        """
        results: list[Deferred[None]] = []

        def handler(delivery: Delivery) -> Deferred[None]:
            results.append(Deferred())
            return results[-1]

        runner = self.runner(handler)
        self.deliver()
        self.deliver()
        self.peer.drop()
        results[0].callback(None)
        results[1].errback(ValueError("no"))
        self.assertEqual(runner.counts, Counts(stale=2))
        self.assertIn("it will come again", self.failed())

    def test_abandoned(self) -> None:
        """
        A handler that is given up is cancelled, after its message was handed back;
        what it says then counts no more.
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
        self.deliver()
        self.deliver(2, redelivered=True)
        runner.abandon()
        self.assertEqual(outcomes, ["cancelled", "cancelled"])
        self.assertEqual(runner.counts, Counts(unfinished=2))
        self.assertEqual(runner.running, 0)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.peer.expect(BasicNack)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_unreadable_identity(self) -> None:
        """
        A message whose message-id cannot be read is named by the rest.
        """
        self.runner(self.failing()[0])
        # Flags for message-id alone, and a string that is longer than what follows.
        raw = (0x0080).to_bytes(2, "big") + b"\xff"
        self.deliver(properties=Properties.from_wire(raw))
        self.assertIn("message-id unreadable", self.failed())


class TallyTests(SynchronousTestCase):
    """
    The numbers, in words.
    """

    def test_words(self) -> None:
        """
        What there was none of is left out, if it is rare.
        """
        self.assertEqual(
            str(Counts()), "0 acknowledged, 0 requeued, 0 rejected, 0 unfinished"
        )
        self.assertEqual(
            str(Counts(1, 2, 3, 4, 5, 6)),
            "1 acknowledged, 2 requeued, 3 rejected, 4 answered by the handler itself, "
            "5 done but not acknowledged in time, 6 unfinished",
        )


RETRIES = FailurePolicy(on_error=OnError.RETRY, attempts=3, delays=(5, 30), parks=True)
QUEUES = RetryQueues(queue="work", delays=(5, 30), dead_letter_queue="work.parked")


class SendingCase(WorkCase):
    """
    Work whose messages may be sent on.
    """

    def setUp(self) -> None:
        super().setUp()
        self.published: list[tuple[Message, Deferred[None]]] = []
        self.tag = 0

    def republish(self, message: Message) -> Deferred[None]:
        """
        Publish, and have the broker answer later.
        """
        confirmed: Deferred[None] = Deferred()
        self.published.append((message, confirmed))
        return confirmed

    def sending(self, handler: Handler, **details: Any) -> HandlerRunner:
        """
        Work with retries and a parking queue.
        """
        options = HandlerOptions(
            **{"policy": RETRIES, "retry_queues": QUEUES, "consumer": "shop", **details}
        )
        return self.runner(handler, options, republish=self.republish)

    def give(self, headers: dict[str, Any] | None = None, **details: Any) -> int:
        """
        Deliver one more message.
        """
        self.tag += 1
        if headers is not None:
            details["properties"] = Properties(headers=headers, message_id="m1")
        self.peer.deliver(1, "ctag-1.1", self.tag, b"the body", **details)
        return self.tag


def failing(delivery: Delivery) -> None:
    """
    A handler that fails.
    """
    raise ValueError("no such\norder")


class RetryTests(SendingCase):
    """
    What failed is sent on: to a delay queue, then to the parking queue.
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
        self.assertEqual((self.peer.listen(), runner.running), ([], 1))
        confirmed.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(retried=1))
        self.assertEqual(runner.running, 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        [event] = [each for each in self.events if "log_failure" in each]
        self.assertEqual(event["log_level"].name, "warn")
        self.assertIn("it comes again in 5 s", formatEvent(event))
        self.assertEqual(event["consumer"], "shop")
        self.assertEqual(event["outcome"], "retry")

    def test_parked(self) -> None:
        """
        After the last try it goes to the parking queue, with the error.
        """
        runner = self.sending(failing)
        self.give({"x-retry-count": 2})
        [(message, confirmed)] = self.published
        self.assertEqual((message.exchange, message.routing_key), ("", "work.parked"))
        headers = dict(message.properties.headers or {})
        self.assertEqual(headers["x-error"], "no such\\norder")
        self.assertEqual(headers["x-error-type"], "builtins.ValueError")
        self.assertEqual(headers["x-error-tries"], 3)
        self.assertEqual(headers["x-error-consumer"], "shop")
        self.assertIn("in failing", headers["x-error-traceback"])
        confirmed.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(runner.counts, Counts(dead_lettered=1))
        self.assertIn("it goes to the queue work.parked", self.failed())

    def test_broker_delays(self) -> None:
        """
        Where the queue delays by itself, the message is rejected: that is what the
        broker counts.  It is parked when the broker has counted enough.
        """
        runner = self.sending(failing)
        runner.broker_delays = True
        self.give({"x-delivery-count": 1}, redelivered=True)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual(runner.counts, Counts(retried=1))
        self.give({"x-delivery-count": 2}, redelivered=True)
        self.assertEqual(self.published[0][0].routing_key, "work.parked")
        self.published[0][1].callback(None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_not_confirmed(self) -> None:
        """
        A message that the broker does not take stays where it is: it goes back, after
        a while, so that it does not go round as fast as it can.
        """
        runner = self.sending(failing)
        self.give()
        self.published[0][1].errback(Nacked())
        self.peer.turn()
        self.assertEqual(self.peer.listen(), [])
        self.peer.clock.advance(5)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.assertEqual(runner.counts, Counts(requeued=1))
        self.assertEqual(runner.running, 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_cannot_be_written(self) -> None:
        """
        A message that cannot be sent on, since AMQP cannot carry what is in it, is
        rejected.
        """
        runner = self.sending(failing)
        self.give()
        self.published[0][1].errback(EncodeError("headers['a']", "not a number"))
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(rejected=1))
        self.assertIn("it was rejected", self.failed())

    def test_undecodable(self) -> None:
        """
        A message whose headers cannot be read is rejected, whatever its handler has
        failed with, and logged once.
        """
        runner = self.sending(failing)
        # Flags for headers alone, and a table that is longer than what follows.
        raw = (0x2000).to_bytes(2, "big") + b"\x00\x00\x00\xff"
        self.give(properties=Properties.from_wire(raw))
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(rejected=1))
        self.assertIn("it was rejected", self.failed())
        self.assertTrue(self.channel.is_open)

    def test_undecodable_key(self) -> None:
        """
        The handler does not see a message whose key cannot be read.
        """
        seen: list[Delivery] = []
        runner = self.sending(seen.append, order_by="header:customer")
        raw = (0x2000).to_bytes(2, "big") + b"\x00\x00\x00\xff"
        self.give(properties=Properties.from_wire(raw))
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual((seen, runner.running), ([], 0))
        self.assertIn("it was rejected", self.failed(UndecodableProperty))

    def test_gone_while_publishing(self) -> None:
        """
        If the channel goes before the confirm comes, there is nobody to tell.
        """
        runner = self.sending(failing)
        self.give()
        self.peer.drop()
        self.published[0][1].errback(Nacked())
        self.assertEqual(runner.counts, Counts(stale=1))
        self.assertIn("it will come again", self.failed())

    def test_abandoned_while_publishing(self) -> None:
        """
        A message whose confirm takes too long, when all is to stop, goes back; that
        the confirm comes later changes nothing.
        """
        runner = self.sending(failing)
        self.give()
        self.give()
        self.published[1][1].errback(Nacked())
        runner.abandon()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(runner.counts, Counts(unfinished=2))
        self.assertEqual(runner.running, 0)
        self.peer.clock.advance(6)
        self.assertEqual(self.peer.listen(), [])
        self.flushLoggedErrors()

    def test_too_many_deliveries(self) -> None:
        """
        A message that was delivered in vain too often does not come to the handler.
        """
        seen: list[Delivery] = []
        policy = FailurePolicy(parks=True, max_deliveries=20)
        runner = self.sending(seen.append, policy=policy)
        self.give({"x-delivery-count": 19}, redelivered=True)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.give({"x-delivery-count": 20}, redelivered=True)
        self.published[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(2))
        self.assertEqual(len(seen), 1)
        self.assertEqual(runner.counts, Counts(acknowledged=1, dead_lettered=1))
        [event] = [each for each in self.events if "log_failure" in each]
        self.assertIn("it goes to the queue work.parked", formatEvent(event))
        self.flushLoggedErrors()


class SayingTests(SendingCase):
    """
    What a handler may say by raising it.
    """

    def said(self, error: Exception, **details: Any) -> HandlerRunner:
        """
        Work on one message, whose handler raises this.
        """

        def handler(delivery: Delivery) -> None:
            raise error

        runner = self.sending(handler, **details)
        self.give()
        return runner

    def test_reject(self) -> None:
        """
        `Reject` parks the message at once; without a parking queue it is rejected.
        No traceback is logged.
        """
        self.said(Reject("no customer"))
        self.assertEqual(self.published[0][0].routing_key, "work.parked")
        self.setUp()
        runner = self.said(Reject("no customer"), policy=FailurePolicy())
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertEqual(runner.counts, Counts(rejected=1))
        [text] = [formatEvent(each) for each in self.events if "outcome" in each]
        self.assertIn("said Reject('no customer')", text)

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
        policy = FailurePolicy(
            on_error=OnError.REJECT, attempts=2, delays=(5,), parks=True
        )
        self.said(Retry(), policy=policy)
        self.assertEqual(self.published[0][0].exchange, "work.retry.5s")

    def test_halt(self) -> None:
        """
        `Halt` hands the message back, which no queue counts, or acknowledges it, and
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


class LaneTests(SendingCase):
    """
    How many handlers run at a time, in which order, and for how long.
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
        The delivery tags of those that were begun with.
        """
        return [delivery.delivery_tag for delivery, _ in self.handled]

    def test_concurrency(self) -> None:
        """
        No more run at a time than may; the next one begins when one has ended.
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

    def test_hand_back(self) -> None:
        """
        What no handler has begun with goes back.
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

    def test_timeout(self) -> None:
        """
        A handler that takes too long is cancelled, and has failed.
        """
        runner = self.runner(self.handle, HandlerOptions(timeout=10))
        self.give()
        self.peer.clock.advance(9)
        self.assertEqual((self.peer.listen(), runner.idle_seconds()), ([], 9))
        self.peer.clock.advance(1)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual((runner.running, runner.idle_seconds()), (0, 0))
        self.assertIn("it goes back", self.failed(HandlerTimeout))

    def test_timeout_in_vain(self) -> None:
        """
        A handler that does not let itself be cancelled is answered for, and keeps its
        lane until it ends.
        """
        runner = self.runner(
            self.handle, HandlerOptions(timeout=10, concurrency=1), cancels=False
        )
        self.give()
        self.give()
        self.peer.clock.advance(10)
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual((self.tags(), runner.running), ([1], 1))
        self.handled[0][1].callback(None)
        self.assertEqual(self.tags(), [1, 2])
        self.handled[1][1].callback(None)
        self.assertEqual(runner.counts, Counts(acknowledged=1, requeued=1))
        self.failed(HandlerTimeout)

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
        one has begun.
        """
        histogram = Histogram((1.0, 5.0))
        options = HandlerOptions(log_messages=True)
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

    def test_failed_before(self) -> None:
        """
        A Deferred that has failed already is a failure like others.
        """
        self.runner(lambda _: fail(ValueError("no")), HandlerOptions(timeout=10))
        self.give()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.failed()
