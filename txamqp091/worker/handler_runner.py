# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
Handlers at work: one message each, so many at a time, and answered for.

Theory.  A delivery waits in a lane until there is room (and until the one before it
with its key is done), then its handler runs, then it is answered for: what the answer
is, `txamqp091.worker.failure_policy` decides.  An answer may take time too, when the
message is published somewhere else first.  A lane is free again when the handler has
ended and the answer was given, whichever comes last: a handler that ran into its time
limit, and does not let itself be cancelled, keeps its lane.

Where the messages come from is in `txamqp091.worker.consumer_service`.
"""

from __future__ import annotations

__all__ = ["HandlerOptions", "HandlerRunner", "Republish"]

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.consumer import Handler
from txamqp091.errors import LocalProtocolError, UndecodableProperty, printable
from txamqp091.message import Delivery, Message
from txamqp091.worker.counts import (
    Counts,
    Histogram,
    MessageOutcome,
    identity,
    message_id_of,
)
from txamqp091.worker.failure_policy import (
    Action,
    Decision,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
    delivery_count,
    retry_count,
)
from txamqp091.worker.keyed_queue import KeyedQueue
from txamqp091.worker.retry_queues import RetryQueues

_log = Logger(namespace="txamqp091.worker")

#: How many seconds a message is held that could not be sent on, before it goes back
#: to its queue: or it would be delivered, and fail, as fast as the network allows.
_BRAKE = 5.0

# What handlers raise in order to say something: no traceback is needed to see it.
_SAID = (Reject, Requeue, Retry, Halt)


#: Publishes a message, and fires when the broker has confirmed it.
Republish = Callable[[Message], Deferred[None]]


@dataclass(frozen=True, kw_only=True)
class HandlerOptions:
    """
    How a consumer's messages are worked on.

    :ivar consumer: what logs and headers call the consumer.
    :ivar policy: what becomes of a message.
    :ivar retry_queues: the delay queues and the dead-letter queue.
    :ivar concurrency: how many handlers may run at a time; 0 is no limit.
    :ivar order_by: ``"routing-key"`` or ``"header:NAME"``: messages that have the same
        are worked on one after another.  "" for all at once.
    :ivar timeout: how many seconds a handler has; 0 is no limit.
    :ivar log_messages: whether successes are logged too.
    :ivar stream: whether the queue is a stream.  It takes nothing back, and RabbitMQ 3
        closes the connection for the attempt: what is rejected is acknowledged, and
        what would go back stays unanswered, so that it comes again after a reconnect.
    """

    consumer: str = ""
    policy: FailurePolicy = FailurePolicy()
    retry_queues: RetryQueues | None = None
    concurrency: int = 0
    order_by: str = ""
    timeout: float = 0.0
    log_messages: bool = False
    stream: bool = False


class _Run:
    """
    One delivery, from when it came to when all is done.

    :ivar holds: why its lane is not free: the handler, and the answer.
    """

    # Most of it stays as it is: each has its own only of what changes.
    key: Hashable | None = None
    started = 0.0
    holds = 1
    answered = False
    abandoned = False
    finished = False
    result: Deferred[Any] | None = None
    timer: IDelayedCall | None = None
    brake: IDelayedCall | None = None
    ended: Deferred[None] | None = None

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery


class HandlerRunner:
    """
    Runs a handler for each delivery, and answers for it as the policy says.  A handler
    that answers itself is respected.

    :ivar options: how it is done.
    :ivar counts: the answers so far.
    :ivar broker_delays: whether the queue itself delays what is rejected, so that no
        delay queue is needed.
    """

    def __init__(
        self,
        handler: Handler,
        queue: str,
        clock: IReactorTime,
        options: HandlerOptions | None = None,
        *,
        republish: Republish | None = None,
        cancels: bool = True,
        histogram: Histogram | None = None,
        halted: Callable[[Halt], object] | None = None,
    ) -> None:
        """
        :param queue: what logs call the queue.
        :param republish: publishes what is to be retried or parked.
        :param cancels: whether cancelling a handler's Deferred ends the handler; if
            not (it runs in a thread), nobody tries.
        :param histogram: measures how long handlers take, with the answer.
        :param halted: called when the policy says that the daemon is to end.
        """
        self.options = HandlerOptions() if options is None else options
        self.counts = Counts()
        self.broker_delays = False
        self._handler = handler
        self._queue = queue
        self._clock = clock
        self._republish = republish
        self._cancels = cancels
        self._histogram = histogram
        self._halted = halted
        self._waiting: KeyedQueue[_Run] = KeyedQueue(self.options.concurrency)
        self._pumping = False
        self._running: dict[_Run, None] = {}
        self._idle: list[Deferred[None]] = []
        self._moved = clock.seconds()
        self._last: float | None = None

    @property
    def running(self) -> int:
        """
        How many handlers have begun and not ended, or wait for their answer to be
        given.
        """
        return len(self._running)

    @property
    def waiting(self) -> int:
        """
        How many deliveries no handler has begun with.
        """
        return len(self._waiting)

    def idle_seconds(self) -> float:
        """
        For how long no handler has begun or ended though there is work to do; 0 if
        there is none.
        """
        if not self._running:
            return 0.0
        return self._clock.seconds() - self._moved

    def seconds_since_last(self) -> float | None:
        """
        How many seconds ago the last handler has begun; None if none has.
        """
        return None if self._last is None else self._clock.seconds() - self._last

    def change(self, options: HandlerOptions) -> None:
        """
        Go on in another way, from the next message on.
        """
        self.options = options
        self._waiting.limit = options.concurrency
        self._pump()

    # -- from delivery to handler ----------------------------------------------------

    def take(self, delivery: Delivery) -> Deferred[None] | None:
        """
        Work on a delivery, now or when it is its turn.

        :returns: fires with None when its handler has ended, well or not, and it was
            answered for; it does not fail.  None, if that is so already.
        """
        run = _Run(delivery)
        try:
            if self.options.order_by:
                run.key = self._key(delivery)
            if delivery.redelivered:
                self._check_count(delivery)
        except (UndecodableProperty, TooManyDeliveries):
            # No handler is to see it; but it passes as one that failed at once.
            run.key = None
            self._waiting.taken += 1
            self._begin(run)
            self._finish(run, Failure())
        else:
            if run.key is None and self._waiting.enter():
                self._start(run)
            else:
                self._waiting.put(run, run.key)
                self._pump()
        if run.finished:
            return None
        run.ended = Deferred(lambda _: None)
        return run.ended

    def _key(self, delivery: Delivery) -> Hashable | None:
        order = self.options.order_by
        if order == "routing-key":
            # It keeps its own on its way through delay queues.
            return delivery.routing_key
        key = delivery.headers.get(order.removeprefix("header:"))
        # Only what can be compared can be the same.
        return key if isinstance(key, str | bytes | int) else None

    def _check_count(self, delivery: Delivery) -> None:
        most = self.options.policy.max_deliveries
        if most:
            count = delivery_count(delivery.headers)
            if count >= most:
                raise TooManyDeliveries(count)

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while (run := self._waiting.take()) is not None:
                self._start(run)
        finally:
            self._pumping = False

    def _begin(self, run: _Run) -> None:
        self._running[run] = None
        run.started = self._last = self._moved = self._clock.seconds()

    def _start(self, run: _Run) -> None:
        self._begin(run)
        try:
            result = self._handler(run.delivery)
        except (Exception, SystemExit):
            self._finish(run, Failure())
            return
        if result is None:
            self._finish(run, None)
            return
        if type(result) is CoroutineType or inspect.iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            run.result = result
            seconds = self.options.timeout
            if seconds and not result.called:
                run.timer = self._clock.callLater(seconds, self._late, run, seconds)
            result.addBoth(self._returned, run)
        elif hasattr(result, "__await__"):
            # Nobody would: the message were acknowledged before anything is done.
            problem = f"a handler returned what Twisted cannot wait for: {type(result)}"
            self._finish(run, Failure(TypeError(problem)))
        else:
            self._finish(run, None)

    def _returned(self, result: object, run: _Run) -> None:
        self._finish(run, result if isinstance(result, Failure) else None)

    def _late(self, run: _Run, seconds: float) -> None:
        run.timer = None
        self._answer(run, Failure(HandlerTimeout(seconds)))
        if self._cancels and run.result is not None:
            run.result.cancel()

    def _finish(self, run: _Run, failure: Failure | None) -> None:
        """
        The handler has ended.
        """
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        if not run.answered:
            self._answer(run, failure)
        self._release(run)

    def _release(self, run: _Run) -> None:
        """
        One of the things is done that keep its lane.
        """
        run.holds -= 1
        if run.holds:
            return
        run.finished = True
        self._moved = self._clock.seconds()
        del self._running[run]
        self._waiting.done(run.key)
        if run.ended is not None and not run.ended.called:
            run.ended.callback(None)
        self._pump()
        if not self._running:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)

    # -- stopping ----------------------------------------------------------------------

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when no handler is running, which may be at once.
        """
        if not self._running:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(waiting)
        return waiting

    def hand_back(self) -> int:
        """
        Let the deliveries go back to their queue that no handler has begun with.

        :returns: how many they are.
        """
        waiting = self._waiting.clear()
        for run in waiting:
            run.finished = True
            if not run.delivery.settled:
                self._hand_back(run.delivery)
            if run.ended is not None and not run.ended.called:
                run.ended.callback(None)
        return len(waiting)

    def _hand_back(self, delivery: Delivery) -> None:
        """
        Not a reject: that there is no time for it is no fault of the message.
        """
        if not self.options.stream:
            delivery.nack()

    def abandon(self) -> None:
        """
        Give up the handlers that are still running: cancel them, and hand their
        messages back.
        """
        self.hand_back()
        running = list(self._running)
        for run in running:
            if run.timer is not None:
                run.timer.cancel()
                run.timer = None
            delivery = run.delivery
            if run.answered and delivery.settled:
                continue  # its handler does not let itself be cancelled
            run.answered = run.abandoned = True
            self._count(run, MessageOutcome.UNFINISHED)
            if not delivery.settled:
                self._hand_back(delivery)
            _log.warn(
                "Gave up a handler; its message goes back to the queue {queue} "
                "({identity})",
                **self._details(run, MessageOutcome.UNFINISHED),
            )
            if run.brake is not None:
                run.brake.cancel()
                self._release(run)
        for run in running:
            if self._cancels and run.result is not None:
                run.result.cancel()

    # -- the answers -------------------------------------------------------------------

    def _answer(self, run: _Run, failure: Failure | None) -> None:
        """
        Answer for a message, or begin to.
        """
        run.answered = True
        delivery = run.delivery
        if delivery.settled:
            self._settled(
                run, failure, MessageOutcome.SETTLED, "it had been answered for"
            )
            return
        if delivery.is_stale:
            problem = "its channel has gone, so it will come again"
            self._settled(run, failure, MessageOutcome.STALE, problem)
            if failure is not None and isinstance(failure.value, Halt):
                self._halt(failure.value)
            return
        if failure is None:
            delivery.ack()
            self.counts.acknowledged += 1
            if self._histogram is not None:
                self._histogram.add(self._clock.seconds() - run.started)
            if self.options.log_messages:
                self._log_success(run, MessageOutcome.ACKNOWLEDGED)
            return
        decision = self._decide(delivery, failure)
        self._carry_out(run, failure, decision)
        if decision.halt:
            self._halt(failure.value)

    def _decide(self, delivery: Delivery, failure: Failure) -> Decision:
        error = failure.value
        policy = self.options.policy
        if self.options.stream and isinstance(error, Requeue | Retry):
            error = Exception(error)  # as any other, since it cannot go back
        try:
            headers = delivery.headers
        except UndecodableProperty as undecodable:
            # There is no telling how often it was tried.
            if isinstance(error, Halt):
                return policy.decide(error, 1, delivery.redelivered)
            return policy.decide(undecodable, 1, delivery.redelivered)
        tries = 1 + retry_count(headers)
        if self.broker_delays:
            tries += delivery_count(headers)
        return policy.decide(error, tries, delivery.redelivered)

    def _carry_out(self, run: _Run, failure: Failure, decision: Decision) -> None:
        delivery = run.delivery
        match decision.action:
            case Action.ACK:
                delivery.ack()
                self._settled(run, failure, MessageOutcome.ACKNOWLEDGED, "it is done")
            case Action.REQUEUE | Action.HAND_BACK if self.options.stream:
                problem = "it will come again after a reconnect"
                self._settled(run, failure, MessageOutcome.REQUEUED, problem)
            case Action.REQUEUE:
                delivery.reject(True)
                problem = "it goes back, to be tried once more"
                self._settled(run, failure, MessageOutcome.REQUEUED, problem)
            case Action.HAND_BACK:
                delivery.nack()
                self._settled(run, failure, MessageOutcome.REQUEUED, "it goes back")
            case Action.RETRY if self.broker_delays:
                delivery.reject(True)
                problem = "its queue will deliver it again, later"
                self._settled(run, failure, MessageOutcome.RETRIED, problem)
            case Action.RETRY | Action.DEAD_LETTER:
                self._send_on(run, failure, decision)
            case _:
                self._reject(run, failure)

    def _reject(self, run: _Run, failure: Failure) -> None:
        if self.options.stream:
            run.delivery.ack()
            self._settled(run, failure, MessageOutcome.REJECTED, "it is passed over")
            return
        run.delivery.reject(False)
        self._settled(run, failure, MessageOutcome.REJECTED, "it was rejected")

    def _send_on(self, run: _Run, failure: Failure, decision: Decision) -> None:
        """
        Publish it to a delay queue or the parking queue; only then acknowledge it.
        """
        queues = self.options.retry_queues
        error = failure.value
        assert queues is not None and self._republish is not None and error is not None
        delivery = run.delivery
        try:
            if decision.action is Action.RETRY:
                message = queues.retry(delivery, error, decision.delay)
                outcome = MessageOutcome.RETRIED
                words = f"it comes again in {decision.delay:g} s"
            else:
                tries = 1 + retry_count(delivery.headers)
                if self.broker_delays:
                    tries += delivery_count(delivery.headers)
                message = queues.dead_letter(
                    delivery, error, tries, self.options.consumer
                )
                outcome = MessageOutcome.DEAD_LETTERED
                words = f"it goes to the queue {printable(queues.dead_letter_queue)}"
        except (UndecodableProperty, LocalProtocolError):
            # What cannot be read, or written again, cannot be sent on.
            self._reject(run, failure)
            return
        run.holds += 1
        self._republish(message).addCallbacks(
            self._sent_on,
            self._not_sent_on,
            callbackArgs=(run, failure, outcome, words),
            errbackArgs=(run, failure),
        )

    def _sent_on(
        self, _: None, run: _Run, failure: Failure, outcome: MessageOutcome, words: str
    ) -> None:
        if not (run.delivery.settled or run.delivery.is_stale):
            run.delivery.ack()
        if not run.abandoned:
            self._settled(run, failure, outcome, words)
        self._release(run)

    def _not_sent_on(self, problem: Failure, run: _Run, failure: Failure) -> None:
        delivery = run.delivery
        if run.abandoned:
            self._release(run)
        elif delivery.settled or delivery.is_stale:
            self._settled(run, failure, MessageOutcome.STALE, "it will come again")
            self._release(run)
        elif problem.check(LocalProtocolError):
            self._reject(run, failure)
            self._release(run)
        else:
            _log.error(
                "A message of the queue {queue} could not be sent on: {error}; it goes "
                "back in {seconds:g} s ({identity})",
                error=printable(str(problem.value), 500),
                seconds=_BRAKE,
                **self._details(run, MessageOutcome.REQUEUED),
            )
            run.brake = self._clock.callLater(_BRAKE, self._go_back, run, failure)

    def _go_back(self, run: _Run, failure: Failure) -> None:
        run.brake = None
        if not run.delivery.settled:
            run.delivery.nack()
        self._settled(run, failure, MessageOutcome.REQUEUED, "it goes back")
        self._release(run)

    def _halt(self, error: BaseException | None) -> None:
        if self._halted is None:
            return
        if not isinstance(error, Halt):
            error = Halt(f"{type(error).__name__}: {error}")
        self._halted(error)

    # -- what is told ------------------------------------------------------------------

    def _count(self, run: _Run, outcome: MessageOutcome) -> None:
        self.counts.count(outcome)
        if self._histogram is not None:
            self._histogram.add(self._clock.seconds() - run.started)

    def _settled(
        self,
        run: _Run,
        failure: Failure | None,
        outcome: MessageOutcome,
        words: str = "",
    ) -> None:
        """
        Count an answer, and log it.
        """
        self._count(run, outcome)
        if failure is None:
            if self.options.log_messages:
                self._log_success(run, outcome)
            return
        details = self._details(run, outcome)
        details["words"] = words
        if isinstance(failure.value, _SAID):
            _log.info(
                "A handler said {said} to a message of the queue {queue}: {words} "
                "({identity})",
                said=printable(repr(failure.value)),
                **details,
            )
            return
        level = LogLevel.warn if outcome is MessageOutcome.RETRIED else LogLevel.error
        _log.failure(
            "A handler failed with a message of the queue {queue}: {words} "
            "({identity})",
            failure=failure,
            level=level,
            **details,
        )

    def _log_success(self, run: _Run, outcome: MessageOutcome) -> None:
        _log.info(
            "A message of the queue {queue} was worked on ({identity})",
            **self._details(run, outcome),
        )

    def _details(self, run: _Run, outcome: MessageOutcome) -> dict[str, Any]:
        delivery = run.delivery
        return {
            "queue": printable(self._queue),
            "consumer": self.options.consumer or self._queue,
            "delivery_tag": delivery.delivery_tag,
            "message_id": message_id_of(delivery),
            "duration": round(self._clock.seconds() - run.started, 6),
            "outcome": outcome.value,
            "identity": identity(delivery),
        }
