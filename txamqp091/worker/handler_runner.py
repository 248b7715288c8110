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

__all__ = ["Work"]

import inspect
from collections.abc import Callable, Hashable
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.consumer import Handler
from txamqp091.errors import LocalProtocolError, UndecodableProperty, printable
from txamqp091.message import Delivery
from txamqp091.worker.counts import (
    Durations,
    Outcome,
    Tally,
    identity,
    message_id_of,
)
from txamqp091.worker.failure_policy import (
    Action,
    Decision,
    Halt,
    HandlerTimeout,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
    delivery_count,
    retry_count,
)
from txamqp091.worker.handler_options import Job, Republish
from txamqp091.worker.keyed_queue import Lanes

_log = Logger(namespace="txamqp091.worker")

#: How many seconds a message is held that could not be sent on, before it goes back
#: to its queue: or it would be delivered, and fail, as fast as the network allows.
_BRAKE = 5.0

# What handlers raise in order to say something: no traceback is needed to see it.
_SAID = (Reject, Requeue, Retry, Halt)


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


class Work:
    """
    Runs a handler for each delivery, and answers for it as the policy says.  A handler
    that answers itself is respected.

    :ivar job: how it is done.
    :ivar tally: the answers so far.
    :ivar broker_delays: whether the queue itself delays what is rejected, so that no
        delay queue is needed.
    """

    def __init__(
        self,
        handler: Handler,
        queue: str,
        clock: IReactorTime,
        job: Job | None = None,
        *,
        republish: Republish | None = None,
        cancels: bool = True,
        durations: Durations | None = None,
        halted: Callable[[Halt], object] | None = None,
    ) -> None:
        """
        :param queue: what logs call the queue.
        :param republish: publishes what is to be retried or parked.
        :param cancels: whether cancelling a handler's Deferred ends the handler; if
            not (it runs in a thread), nobody tries.
        :param durations: measures how long handlers take, with the answer.
        :param halted: called when the policy says that the daemon is to end.
        """
        self.job = Job() if job is None else job
        self.tally = Tally()
        self.broker_delays = False
        self._handler = handler
        self._queue = queue
        self._clock = clock
        self._republish = republish
        self._cancels = cancels
        self._durations = durations
        self._halted = halted
        self._lanes: Lanes[_Run] = Lanes(self.job.concurrency)
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
        return len(self._lanes)

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

    def change(self, job: Job) -> None:
        """
        Go on in another way, from the next message on.
        """
        self.job = job
        self._lanes.limit = job.concurrency
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
            if self.job.order_by:
                run.key = self._key(delivery)
            if delivery.redelivered:
                self._check_count(delivery)
        except (UndecodableProperty, TooManyDeliveries):
            # No handler is to see it; but it passes as one that failed at once.
            run.key = None
            self._lanes.taken += 1
            self._begin(run)
            self._finish(run, Failure())
        else:
            if run.key is None and self._lanes.enter():
                self._start(run)
            else:
                self._lanes.put(run, run.key)
                self._pump()
        if run.finished:
            return None
        run.ended = Deferred(lambda _: None)
        return run.ended

    def _key(self, delivery: Delivery) -> Hashable | None:
        order = self.job.order_by
        if order == "routing-key":
            # It keeps its own on its way through delay queues.
            return delivery.routing_key
        key = delivery.headers.get(order.removeprefix("header:"))
        # Only what can be compared can be the same.
        return key if isinstance(key, str | bytes | int) else None

    def _check_count(self, delivery: Delivery) -> None:
        most = self.job.policy.max_deliveries
        if most:
            count = delivery_count(delivery.headers)
            if count >= most:
                raise TooManyDeliveries(count)

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while (run := self._lanes.take()) is not None:
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
            seconds = self.job.timeout
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
        self._lanes.done(run.key)
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
        waiting = self._lanes.clear()
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
        if not self.job.stream:
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
            self._count(run, Outcome.UNFINISHED)
            if not delivery.settled:
                self._hand_back(delivery)
            _log.warn(
                "Gave up a handler; its message goes back to the queue {queue} "
                "({identity})",
                **self._details(run, Outcome.UNFINISHED),
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
            self._settled(run, failure, Outcome.SETTLED, "it had been answered for")
            return
        if delivery.is_stale:
            problem = "its channel has gone, so it will come again"
            self._settled(run, failure, Outcome.STALE, problem)
            if failure is not None and isinstance(failure.value, Halt):
                self._halt(failure.value)
            return
        if failure is None:
            delivery.ack()
            self.tally.acknowledged += 1
            if self._durations is not None:
                self._durations.add(self._clock.seconds() - run.started)
            if self.job.log_messages:
                self._log_success(run, Outcome.ACKNOWLEDGED)
            return
        decision = self._decide(delivery, failure)
        self._carry_out(run, failure, decision)
        if decision.halt:
            self._halt(failure.value)

    def _decide(self, delivery: Delivery, failure: Failure) -> Decision:
        error = failure.value
        policy = self.job.policy
        if self.job.stream and isinstance(error, Requeue | Retry):
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
                self._settled(run, failure, Outcome.ACKNOWLEDGED, "it is done")
            case Action.REQUEUE | Action.HAND_BACK if self.job.stream:
                problem = "it will come again after a reconnect"
                self._settled(run, failure, Outcome.REQUEUED, problem)
            case Action.REQUEUE:
                delivery.reject(True)
                problem = "it goes back, to be tried once more"
                self._settled(run, failure, Outcome.REQUEUED, problem)
            case Action.HAND_BACK:
                delivery.nack()
                self._settled(run, failure, Outcome.REQUEUED, "it goes back")
            case Action.RETRY if self.broker_delays:
                delivery.reject(True)
                problem = "its queue will deliver it again, later"
                self._settled(run, failure, Outcome.RETRIED, problem)
            case Action.RETRY | Action.PARK:
                self._send_on(run, failure, decision)
            case _:
                self._reject(run, failure)

    def _reject(self, run: _Run, failure: Failure) -> None:
        if self.job.stream:
            run.delivery.ack()
            self._settled(run, failure, Outcome.REJECTED, "it is passed over")
            return
        run.delivery.reject(False)
        self._settled(run, failure, Outcome.REJECTED, "it was rejected")

    def _send_on(self, run: _Run, failure: Failure, decision: Decision) -> None:
        """
        Publish it to a delay queue or the parking queue; only then acknowledge it.
        """
        plan = self.job.plan
        error = failure.value
        assert plan is not None and self._republish is not None and error is not None
        delivery = run.delivery
        try:
            if decision.action is Action.RETRY:
                message = plan.again(delivery, error, decision.delay)
                outcome = Outcome.RETRIED
                words = f"it comes again in {decision.delay:g} s"
            else:
                tries = 1 + retry_count(delivery.headers)
                if self.broker_delays:
                    tries += delivery_count(delivery.headers)
                message = plan.parked(delivery, error, tries, self.job.consumer)
                outcome = Outcome.PARKED
                words = f"it goes to the queue {printable(plan.parking)}"
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
        self, _: None, run: _Run, failure: Failure, outcome: Outcome, words: str
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
            self._settled(run, failure, Outcome.STALE, "it will come again")
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
                **self._details(run, Outcome.REQUEUED),
            )
            run.brake = self._clock.callLater(_BRAKE, self._go_back, run, failure)

    def _go_back(self, run: _Run, failure: Failure) -> None:
        run.brake = None
        if not run.delivery.settled:
            run.delivery.nack()
        self._settled(run, failure, Outcome.REQUEUED, "it goes back")
        self._release(run)

    def _halt(self, error: BaseException | None) -> None:
        if self._halted is None:
            return
        if not isinstance(error, Halt):
            error = Halt(f"{type(error).__name__}: {error}")
        self._halted(error)

    # -- what is told ------------------------------------------------------------------

    def _count(self, run: _Run, outcome: Outcome) -> None:
        self.tally.count(outcome)
        if self._durations is not None:
            self._durations.add(self._clock.seconds() - run.started)

    def _settled(
        self, run: _Run, failure: Failure | None, outcome: Outcome, words: str = ""
    ) -> None:
        """
        Count an answer, and log it.
        """
        self._count(run, outcome)
        if failure is None:
            if self.job.log_messages:
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
        level = LogLevel.warn if outcome is Outcome.RETRIED else LogLevel.error
        _log.failure(
            "A handler failed with a message of the queue {queue}: {words} "
            "({identity})",
            failure=failure,
            level=level,
            **details,
        )

    def _log_success(self, run: _Run, outcome: Outcome) -> None:
        _log.info(
            "A message of the queue {queue} was worked on ({identity})",
            **self._details(run, outcome),
        )

    def _details(self, run: _Run, outcome: Outcome) -> dict[str, Any]:
        delivery = run.delivery
        return {
            "queue": printable(self._queue),
            "consumer": self.job.consumer or self._queue,
            "delivery_tag": delivery.delivery_tag,
            "message_id": message_id_of(delivery),
            "duration": round(self._clock.seconds() - run.started, 6),
            "outcome": outcome.value,
            "identity": identity(delivery),
        }
