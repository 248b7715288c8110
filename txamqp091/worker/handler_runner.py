# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
Runs a handler for each delivery, and settles the delivery: `HandlerRunner`.

Theory.  A delivery waits until a slot is free (and until the delivery before it with
the same key is settled), then its handler runs, then the delivery is settled as
`txamqp091.worker.failure_policy` decides.  The slot is free again when the handler has
ended.  Three things may keep a delivery unsettled longer: the handler is to be called
again after a pause; the message is published to another queue first; or publishing it
fails, and is tried again.  Such a delivery is *held*: it takes room in the prefetch
window, and keeps its key, but no slot.

A delivery whose channel has ended is *stale*: the broker delivers the message again.
No handler is called for a stale delivery.

A message that was often delivered and never settled is a *suspect*: it may end the
process.  Its handler runs while no other handler runs.

`txamqp091.worker.consumer_service` passes the deliveries in.
"""

from __future__ import annotations

__all__ = ["HandlerOptions", "HandlerRunner", "Republish"]

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091._coroutines import begin
from txamqp091._threads import ThreadRunner
from txamqp091.consumer import Handler
from txamqp091.errors import (
    LocalProtocolError,
    NotFound,
    Returned,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Delivery, Message
from txamqp091.worker.asyncio_handlers import (
    ADVICE,
    event_loop,
    needs_asyncio,
    run_coroutine,
)
from txamqp091.worker.batches import Batches
from txamqp091.worker.calling import call, coroutine_of, refuse_generator
from txamqp091.worker.counts import Counts, Histogram, MessageOutcome
from txamqp091.worker.failure_policy import (
    Action,
    Dead,
    Decision,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    Pause,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
)
from txamqp091.worker.keyed_queue import KeyedQueue
from txamqp091.worker.message_context import current, delivery_fields, identity
from txamqp091.worker.middleware import Middleware, wrap
from txamqp091.worker.retry_queues import RetryQueues, error_text

_log = Logger(namespace="txamqp091.worker")

#: After how many seconds a failed message that cannot be published is published again,
#: at the least and at the most.
_SEND_AGAIN = (5.0, 60.0)

#: How many seconds a failed message that cannot be published is held, before it goes
#: back to its queue.
_HELD_MAX = 600.0

#: How many tracebacks are logged in a second; of other failures there is one line.
_TRACEBACKS = 10

#: The exit status of a daemon whose handler needs another reactor: its configuration is
#: wrong.
_EX_CONFIG = 78

# Handlers raise these in order to say something: no traceback is needed.
_SAID = (Reject, Requeue, Retry, Halt, Pause)

#: Publishes a message, and fires when the broker has confirmed it.
Republish = Callable[[Message], Deferred[None]]


@dataclass(frozen=True, kw_only=True)
class HandlerOptions:
    """
    How a consumer's messages are handled.

    :ivar consumer: what logs and headers call the consumer.
    :ivar policy: how a message is settled whose handler failed.
    :ivar retry_queues: the delay queues and the dead-letter queue.
    :ivar concurrency: how many handlers may run at the same time; 0 is no limit.
    :ivar order_by: ``"routing-key"`` or ``"header:NAME"``: messages with the same value
        are handled one after another.  "" is no order.
    :ivar timeout: how many seconds a handler has; 0 is no limit.
    :ivar log_messages: whether successes are logged too.
    :ivar stream: whether the queue is a stream.  A stream takes nothing back, and
        RabbitMQ 3 closes the connection for the attempt: what is rejected is
        acknowledged, and what would go back stays unsettled, so that it comes again
        after a reconnect.
    :ivar consumer_timeout: RabbitMQ's ``consumer_timeout``, in seconds: the service
        warns when half of it has passed and a delivery is not settled.  0 is never.
    """

    consumer: str = ""
    policy: FailurePolicy = FailurePolicy()
    retry_queues: RetryQueues | None = None
    concurrency: int = 0
    order_by: str = ""
    timeout: float = 0.0
    log_messages: bool = False
    stream: bool = False
    consumer_timeout: float = 1800.0

    def __post_init__(self) -> None:
        queues, policy = self.retry_queues, self.policy
        if policy.on_dead is Dead.QUEUE and not (queues and queues.dead_letter_queue):
            raise ValueError(
                "the policy sends dead messages to a dead-letter queue, and there is "
                "none: retry_queues has to name it"
            )
        if queues is None and (policy.delays or policy.on_error is OnError.RETRY):
            raise ValueError("the policy retries, and there are no retry_queues")


class _Run:
    """
    One delivery, from its arrival until it is settled and its handler has ended.

    :ivar attempt: how often its handler was called.
    :ivar running: whether its handler runs.
    :ivar answered: whether it is known how to settle it, for this attempt.
    :ivar held: whether it is not settled though its handler has ended.
    :ivar abandoned: whether the message was handed back, whatever its handler says.
    :ivar finished: whether nothing is left to do.
    :ivar refused: why its handler is not to be called.
    :ivar late: the failure of a handler that took too long.
    :ivar pause: after how many seconds the handler is called again.
    :ivar call: what is to happen to it later.
    :ivar failure: what the handler failed with.
    :ivar delayed: whether it is published to the delay queues of the virtual host.
    :ivar message: what is published, and how it is settled then: the outcome, and words
        for the log.
    """

    # Most of it stays as it is: each instance has only what changes.
    key: Hashable | None = None
    suspect = False
    received = 0.0
    started = 0.0
    attempt = 0
    running = False
    answered = False
    held = False
    abandoned = False
    finished = False
    warned = False
    refused: Failure | None = None
    late: Failure | None = None
    pause: float | None = None
    call: IDelayedCall | None = None
    result: Deferred[Any] | None = None
    timer: IDelayedCall | None = None
    ended: Deferred[None] | None = None
    failure: Failure | None = None
    message: Message | None = None
    plain = False
    delayed = False
    outcome = MessageOutcome.RETRIED
    words = ""
    sends = 0
    restores = 0
    failed_at = 0.0

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery


class HandlerRunner:
    """
    Runs a handler for each delivery, and settles the delivery as the policy says.  A
    delivery that the handler has settled itself is left alone.

    :ivar options: how messages are handled.
    :ivar queue: the queue.
    :ivar counts: how messages were settled so far.
    :ivar broker_delays: whether the queue itself delays what is rejected, so that no
        delay queue is needed.
    :ivar closing: whether no delivery is to be held any more: a failed message whose
        handler is to be called again later goes back to its queue.
    :ivar problem: why failed messages cannot be published; "" if they can.
    """

    def __init__(
        self,
        handler: Handler,
        queue: str,
        clock: IReactorTime,
        options: HandlerOptions | None = None,
        *,
        republish: Republish | None = None,
        restore: Callable[[bool], Deferred[Any]] | None = None,
        middleware: Sequence[Middleware] = (),
        threads: ThreadRunner | None = None,
        histogram: Histogram | None = None,
        halted: Callable[[Halt], object] | None = None,
        paused: Callable[[float | None], object] | None = None,
        held: Callable[[], object] | None = None,
    ) -> None:
        """
        :param clock: the reactor.
        :param republish: publishes what is retried or dead-lettered.
        :param restore: declares the consumer's own delay queues and dead-letter queue
            again; or, called with True, the delay queues of the virtual host.
        :param middleware: put around the handler; the outermost one is the first.
        :param threads: where to call the handler; by default, in the reactor's thread.
        :param histogram: measures how long handlers take, settling included.
        :param halted: called when the policy says that the daemon is to end.
        :param paused: called when a handler has raised `Pause`, with its seconds.
        :param held: called whenever one more delivery is held.
        """
        self.options = HandlerOptions() if options is None else options
        self.queue = queue
        self.counts = Counts()
        self.broker_delays = False
        self.closing = False
        self.problem = ""
        self._clock = clock
        self._loop = event_loop(clock)
        self._batches = handler if isinstance(handler, Batches) else None
        self._in_thread = threads is not None and not middleware
        self._handler = handler
        if middleware:
            inner = handler if threads is None else partial(self._run_in, handler)
            self._handler = wrap(inner, middleware, self._loop)
        # Whose handlers are called in threads, by middleware.
        self._begun: dict[Delivery, _Run] = {}
        # Whether the delay queues of the virtual host were declared.
        self._has_delay_queues = False
        self._republish = republish
        self._restore = restore
        self._threads = threads
        self._histogram = histogram
        self._halted = halted
        self._on_pause = paused
        self._on_held = held
        self._slots: KeyedQueue[_Run] = KeyedQueue(0)
        self._limit_slots()
        # Those that wait to run alone; the first one may be running.
        self._suspects: deque[_Run] = deque()
        self._pumping = False
        # The delivery whose handler is being called, while it has no `_Run`.
        self._called: Delivery | None = None
        self._running: dict[_Run, None] = {}
        self._held: dict[_Run, None] = {}
        self._idle: list[Deferred[None]] = []
        self._settled: list[Deferred[None]] = []
        # When a delivery was settled last, or came first since all were settled.
        self._since: float | None = None
        self._last: float | None = None
        self._tracebacks = (0.0, 0)

    # -- how it is -------------------------------------------------------------------

    @property
    def consumer(self) -> str:
        """
        What logs call the consumer.
        """
        return self.options.consumer or self.queue

    @property
    def running(self) -> int:
        """
        How many handlers run.
        """
        return len(self._run_all())

    @property
    def waiting(self) -> int:
        """
        How many deliveries wait for their handler to be called the first time.
        """
        waiting = len(self._slots) + len(self._suspects)
        return waiting - bool(self._suspects and self._suspects[0].running)

    @property
    def held(self) -> int:
        """
        How many deliveries are not settled though their handler has ended.
        """
        return len(self._held)

    @property
    def unsettled(self) -> int:
        """
        How many deliveries are here, and not settled.
        """
        return len({*self._run_all(), *self._held}) + self.waiting

    def idle_seconds(self) -> float:
        """
        For how many seconds no delivery was settled though there is one; 0 if there is
        none.
        """
        if self._since is None or not self.unsettled:
            return 0.0
        return self._clock.seconds() - self._since

    def oldest(self) -> float | None:
        """
        When the oldest delivery came that is not settled; None if there is none.
        """
        return min((each.received for each in self._all()), default=None)

    def _all(self) -> list[_Run]:
        waiting = self._slots.items()
        return [*self._run_all(), *self._held, *waiting, *self._suspects]

    def seconds_since_last(self) -> float | None:
        """
        How many seconds ago the last handler was called; None if none was.
        """
        return None if self._last is None else self._clock.seconds() - self._last

    def change(self, options: HandlerOptions) -> None:
        """
        Use other options, from the next message on.
        """
        self.options = options
        self._limit_slots()
        self._pump()

    def _limit_slots(self) -> None:
        limit = self.options.concurrency
        if self._batches is not None:
            self._batches.limit, limit = limit, 0
            self._batches.timeout = self.options.timeout
        if self._threads is not None:
            # A message that waits for a thread would wait here, too.
            limit = min(limit or self._threads.size, self._threads.size)
        self._slots.limit = limit

    # -- from delivery to handler ----------------------------------------------------

    def take(self, delivery: Delivery) -> Deferred[None] | None:
        """
        Handle a delivery, now or when it is its turn.

        :returns: fires with None when its handler has ended, well or not, and it is
            settled; it does not fail.  None, if that is so already.
        """
        if delivery.redelivered or self.options.order_by:
            run = _Run(delivery)
            self._sort(run)
        elif self._suspects or not self._slots.enter():
            run = _Run(delivery)
            self._queue(run)
        elif self._threads is None:
            return self._call(delivery)
        else:
            run = _Run(delivery)
            self._start(run)
        return self._when_ended(run)

    def _when_ended(self, run: _Run) -> Deferred[None] | None:
        if run.finished:
            return None
        run.ended = Deferred(lambda _: None)
        return run.ended

    def _call(self, delivery: Delivery) -> Deferred[None] | None:
        """
        Call the handler of a delivery that has not waited, and settle the delivery.
        There is a `_Run` only if the handler is not done at once, has failed, or has
        settled the delivery; or if the handler looks at this runner: most messages cost
        0.6 of that without.
        """
        if self._called is not None:  # its handler has caused this delivery
            self._run_all()
        started = self._last = self._clock.seconds()
        self._called = delivery
        token = current.set((self, delivery))
        try:
            result = self._handler(delivery)
            if result is not None:
                result = self._awaited(result)
        except BaseException:
            result = Failure()
        finally:
            current.reset(token)
        if self._called is not delivery:  # there is a run
            run = next(each for each in self._running if each.delivery is delivery)
        elif result is None and self._needs_ack(delivery):
            self._called = None
            self._slots.free_slot()
            delivery.ack()
            self.counts.acknowledged += 1
            if self._histogram is not None:
                self._histogram.add(self._clock.seconds() - started)
            if self._waits or self._idle:
                self._has_settled()
                self._go_on()
            else:
                self._since = None
            return None
        else:
            [*_, run] = self._run_all()
        self._after(run, result)
        return self._when_ended(run)

    def _needs_ack(self, delivery: Delivery) -> bool:
        """
        Whether all that is to be done for a delivery that was handled is to acknowledge
        it.
        """
        settler = delivery.settler
        return (
            delivery.delivery_tag in settler.unsettled
            and settler.machine.is_open
            and not self.options.log_messages
        )

    def _run_all(self) -> dict[_Run, None]:
        """
        What runs, with a `_Run` for each.
        """
        delivery, self._called = self._called, None
        if delivery is not None:
            run = _Run(delivery)
            run.running = True
            run.attempt = 1
            assert self._last is not None
            run.started = run.received = self._last
            if self._since is None:
                self._since = run.started
            self._running[run] = None
        return self._running

    def _sort(self, run: _Run) -> None:
        """
        Handle a delivery that may have a key, or be a suspect.
        """
        try:
            if self.options.order_by:
                run.key = self._key(run.delivery)
            if run.delivery.redelivered and self.options.policy.max_deliveries:
                self._check_deliveries(run)
        except (UndecodableProperty, TooManyDeliveries):
            run.key = None
            run.received = self._clock.seconds()
            self._refuse(run, Failure())
            return
        if run.suspect:
            run.received = self._clock.seconds()
            self._suspects.append(run)
            self._pump()
        elif run.key is None and not self._suspects and self._slots.enter():
            self._start(run)
        else:
            self._queue(run)

    def _key(self, delivery: Delivery) -> Hashable | None:
        order = self.options.order_by
        if order == "routing-key":
            # A message keeps it on its way through delay queues.
            return delivery.routing_key
        key = delivery.headers.get(order.removeprefix("header:"))
        return key if isinstance(key, str | bytes | int) else None

    def _check_deliveries(self, run: _Run) -> None:
        policy = self.options.policy
        count = self.failed_deliveries(run.delivery)
        if policy.is_used_up(count):
            raise TooManyDeliveries(count)
        if policy.is_suspect(count):
            run.suspect, run.key = True, None

    def failed_deliveries(self, delivery: Delivery) -> int:
        """
        How often a quorum queue has delivered a message that was not settled then; 0 on
        other queues.

        :raises UndecodableProperty: the headers cannot be decoded.
        """
        if not delivery.redelivered:
            return 0
        count = delivery.delivery_count or 0
        if self.broker_delays:
            # The others are retries.
            count -= self.options.policy.attempts - 1
        return max(count, 0)

    def _queue(self, run: _Run) -> None:
        run.received = self._clock.seconds()
        if self._since is None:
            self._since = run.received
        self._slots.put(run, run.key)
        self._pump()

    def _pump(self) -> None:
        """
        Call the handlers of all deliveries whose turn it is.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            while (run := self._next()) is not None:
                if run.delivery.is_stale or run.delivery.settled:
                    self._free_slot(run)
                    self._drop(run)
                else:
                    self._start(run)
        finally:
            self._pumping = False

    def _next(self) -> _Run | None:
        if not self._suspects:
            return self._slots.take()
        run = self._suspects[0]
        if run.running or self._slots.taken:
            return None
        self._slots.taken += 1
        return run

    def _start(self, run: _Run) -> None:
        if self._in_thread:
            assert self._threads is not None
            self._start_in_thread(run, self._threads)
            return
        self._begin(run)
        if self._threads is not None:
            self._begun[run.delivery] = run
        token = current.set((self, run.delivery))
        try:
            result = self._handler(run.delivery)
            if result is not None:
                result = self._awaited(result)
        except BaseException:
            result = Failure()
        finally:
            current.reset(token)
        self._after(run, result)

    def _after(self, run: _Run, result: object) -> None:
        """
        Go on with what a handler has returned, or has failed with.
        """
        if isinstance(result, Deferred):
            self._wait(run, result)
        else:
            self._handled(run, result if isinstance(result, Failure) else None)

    def _begin(self, run: _Run) -> None:
        run.running = True
        run.answered = False
        run.attempt += 1
        self._running[run] = None
        run.started = self._last = self._clock.seconds()
        if not run.received:
            run.received = run.started
            if self._since is None:
                self._since = run.started

    def _start_in_thread(self, run: _Run, threads: ThreadRunner) -> None:
        token = current.set((self, run.delivery))
        try:
            result = threads.run(
                self._handler, run.delivery, partial(self._begin_in_thread, run)
            )
        finally:
            current.reset(token)
        run.result = result
        result.addBoth(self._returned, run)

    def _run_in(self, handler: Handler, delivery: Delivery) -> Deferred[Any]:
        """
        Call a handler in a thread: the innermost handler of middleware.
        """
        assert self._threads is not None
        run = self._begun.get(delivery)
        begin = None if run is None else partial(self._begin_at_last, run)
        result = self._threads.run(handler, delivery, begin)
        return result.addCallback(lambda value: call(lambda: value, loop=self._loop))

    def _begin_at_last(self, run: _Run) -> bool:
        """
        A thread is free for a handler with middleware: its time begins.

        :returns: whether the message is still ours to handle.
        """
        if not run.running or run.answered or run.delivery.is_stale:
            return False
        run.started = self._last = self._clock.seconds()
        self._limit_time(run)
        return True

    def _begin_in_thread(self, run: _Run) -> bool:
        """
        A thread is free.

        :returns: whether the message is still ours to handle.
        """
        if run.abandoned or run.delivery.is_stale or run.delivery.settled:
            return False
        self._begin(run)
        self._limit_time(run)
        return True

    def _limit_time(self, run: _Run) -> None:
        seconds = self.options.timeout
        if seconds and run.timer is None:
            run.timer = self._clock.callLater(seconds, self._late, run, seconds)

    def _awaited(self, result: object) -> object:
        """
        A Deferred for what a handler has returned, if there is something to await; else
        None, or a failure.
        """
        if type(result) is CoroutineType or inspect.iscoroutine(result):
            if self._loop is not None:
                return run_coroutine(result, self._loop)
            result = begin(result)
            return None if result is None else self._awaited(result)
        if isinstance(result, Deferred):
            return result
        refuse_generator(result, "handler")
        if isinstance(result, Awaitable):
            return self._awaited(coroutine_of(result))
        return result if isinstance(result, Failure) else None

    def _wait(self, run: _Run, result: Deferred[Any]) -> None:
        run.result = result
        # Batches and threads know when the handler begins.
        if self._batches is None and self._threads is None and not result.called:
            self._limit_time(run)
        result.addBoth(self._returned, run)

    def _returned(self, result: object, run: _Run) -> None:
        """
        The Deferred of a handler has fired.
        """
        if not run.running:  # a thread was free, and nothing was to be done there
            self._free_slot(run)
            self._drop(run)
            self._pump()
            return
        if result is not None and not isinstance(result, Failure):
            try:
                result = self._awaited(result)
            except BaseException:
                result = Failure()
            if isinstance(result, Deferred):
                self._wait(run, result)
                return
        failure = result if isinstance(result, Failure) else None
        if failure is not None and run.late is not None:
            failure = run.late
        self._handled(run, failure)

    def _late(self, run: _Run, seconds: float) -> None:
        run.timer = None
        run.late = Failure(HandlerTimeout(seconds))
        self._cancel(run)
        if run.running and not run.answered:  # it runs on
            self._settle(run, run.late)

    def _cancel(self, run: _Run) -> None:
        """
        Cancel a handler.  One in a thread cannot be cancelled.
        """
        if self._threads is None and run.result is not None:
            try:
                run.result.cancel()
            except BaseException:
                _log.failure("A handler could not be cancelled")

    def _handled(self, run: _Run, failure: Failure | None) -> None:
        """
        The handler has ended.
        """
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        run.running = False
        del self._running[run]
        self._begun.pop(run.delivery, None)
        self._free_slot(run)
        if not run.answered:
            self._settle(run, failure)
        elif run.pause is not None and not run.abandoned:
            self._pause(run, run.pause)
        if not run.held:
            self._finish(run)
        self._go_on()

    def _go_on(self) -> None:
        """
        A handler has ended: it is the turn of others.
        """
        if self._slots.has_ready or self._suspects:
            self._pump()
        if self._idle and not self.running:
            _fire(self._idle)

    def _free_slot(self, run: _Run) -> None:
        self._slots.free_slot()
        if run.suspect and self._suspects and self._suspects[0] is run:
            self._suspects.popleft()

    def _finish(self, run: _Run) -> None:
        """
        Nothing is left to do for a delivery.
        """
        run.finished = True
        run.failure = run.late = run.message = None
        if run.key is not None:
            self._slots.free_key(run.key)
        if run.ended is not None and not run.ended.called:
            run.ended.callback(None)

    def _drop(self, run: _Run) -> None:
        """
        Forget a delivery that was not settled: the message is not ours any more.
        """
        if run.call is not None:
            run.call.cancel()
            run.call = None
        run.abandoned = True
        self._release(run)

    def _refuse(self, run: _Run, failure: Failure) -> None:
        """
        Settle a delivery whose handler is not to be called.
        """
        run.refused = failure
        run.attempt += 1
        run.started = self._clock.seconds()
        self._settle(run, failure)
        if not run.held:
            self._finish(run)

    # -- held deliveries -------------------------------------------------------------

    def _hold(self, run: _Run) -> None:
        run.held = True
        self._held[run] = None
        if self._on_held is not None:
            self._on_held()

    def _release(self, run: _Run) -> None:
        """
        A held delivery is settled.
        """
        if run.held:
            run.held = False
            del self._held[run]
        if not run.running:
            self._finish(run)
        self._pump()
        if not self._held and self._settled:
            _fire(self._settled)

    def _pause(self, run: _Run, seconds: float) -> None:
        """
        Call the handler again later.
        """
        run.pause = None
        self._hold(run)
        run.call = self._clock.callLater(seconds, self._again, run)

    def _again(self, run: _Run) -> None:
        run.call = None
        delivery = run.delivery
        if delivery.is_stale or delivery.settled:
            self._drop(run)
            return
        run.held = False
        del self._held[run]
        if run.refused is not None:
            self._refuse(run, run.refused)
            return
        run.result = run.late = None
        # The handler may want to know.
        delivery.redelivered = True
        self._slots.put_first(run, run.key)
        self._pump()

    def warn_of_timeouts(self, seconds: float, limit: float) -> None:
        """
        Warn of deliveries that are not settled for a while, once for each.

        :param seconds: for how long.
        :param limit: RabbitMQ's ``consumer_timeout``.
        """
        now = self._clock.seconds()
        late = [
            each
            for each in self._all()
            if now - each.received >= seconds and not each.warned
        ]
        for run in late:
            run.warned = True
        if not late:
            return
        oldest = min(late, key=lambda each: each.received)
        state = "its handler is running" if oldest.running else "it waits here"
        _log.warn(
            "{number} messages from queue {queue} are not settled for {age:.0f} s, the "
            "oldest: {identity}; {state}.  RabbitMQ ends the consumer after its "
            "consumer_timeout, which is {limit:g} s here: make the handler faster, set "
            "a smaller prefetch, or let the broker wait longer",
            number=len(late),
            age=now - oldest.received,
            state=state,
            limit=limit,
            **self._details(oldest, MessageOutcome.UNFINISHED),
        )

    # -- the end of a channel, and of the consumer -----------------------------------

    def drop_stale(self) -> None:
        """
        Forget the deliveries whose channel has ended, and whose handler does not run.
        """

        def is_stale(run: _Run) -> bool:
            return run.delivery.is_stale and not run.running

        dropped = self._slots.remove(is_stale)
        dropped += [each for each in self._suspects if is_stale(each)]
        self._suspects = deque(each for each in self._suspects if not is_stale(each))
        for run in dropped:
            run.key = None  # the queue has freed it
            self._drop(run)
        for run in list(self._held):
            if run.call is not None and run.delivery.is_stale:
                self._drop(run)

    def flush(self) -> None:
        """
        Handle what is gathered for a batch.
        """
        if self._batches is not None:
            self._batches.flush()

    def hand_back(self) -> int:
        """
        Give back to their queue the deliveries whose handler does not run and which are
        not being published.

        :returns: how many they are.
        """
        waiting = self._slots.remove(lambda run: not run.running)
        waiting += [each for each in self._suspects if not each.running]
        self._suspects = deque(each for each in self._suspects if each.running)
        for run in waiting:
            run.key = None
        waiting += [each for each in self._held if each.call is not None]
        for run in waiting:
            self._give_back(run.delivery)
            self._drop(run)
        return len(waiting)

    def _give_back(self, delivery: Delivery) -> None:
        """
        Not a reject: that there is no time for it is no failure of the message.
        """
        if not (delivery.settled or self._is_stream(delivery)):
            delivery.nack()

    def abandon(self) -> None:
        """
        Give up the handlers that run: cancel them, and give their messages back.
        """
        self.hand_back()
        running = list(self._run_all())
        for run in running:
            if run.timer is not None:
                run.timer.cancel()
                run.timer = None
            delivery = run.delivery
            if run.answered and (delivery.settled or run.held):
                continue  # its handler does not let itself be cancelled
            run.answered = run.abandoned = True
            self._count(run, MessageOutcome.UNFINISHED)
            self._give_back(delivery)
            _log.warn(
                "Gave up a handler; its message goes back to the queue {queue} "
                "({identity})",
                **self._details(run, MessageOutcome.UNFINISHED),
            )
        for run in running:
            self._cancel(run)

    def stop_publishing(self) -> int:
        """
        Give back the failed messages that are being published.

        :returns: how many they are.
        """
        held = list(self._held)
        for run in held:
            self._give_back(run.delivery)
            self.counts.count(MessageOutcome.REQUEUED)
            self._drop(run)
        return len(held)

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when no handler runs, which may be at once.
        """
        return _wait_in(self._idle) if self.running else succeed(None)

    def when_settled(self) -> Deferred[None]:
        """
        :returns: fires when no delivery is held, which may be at once.
        """
        return _wait_in(self._settled) if self._held else succeed(None)

    # -- settling --------------------------------------------------------------------

    def _settle(self, run: _Run, failure: Failure | None) -> None:
        """
        Settle a delivery, or begin to.
        """
        run.answered = True
        delivery = run.delivery
        if delivery.settled:
            self._record(run, failure, MessageOutcome.SETTLED, "it had been settled")
            return
        if delivery.is_stale:
            words = "its channel has ended, and the broker delivers it again"
            self._record(run, failure, MessageOutcome.STALE, words)
            if failure is not None and isinstance(failure.value, Halt):
                self._halt(failure.value)
            return
        if failure is None:
            delivery.ack()
            self._has_settled()
            self.counts.acknowledged += 1
            if self._histogram is not None:
                self._histogram.add(self._clock.seconds() - run.started)
            if self.options.log_messages:
                self._log_success(run, MessageOutcome.ACKNOWLEDGED)
            return
        error = failure.value
        assert error is not None
        if self._loop is None and needs_asyncio(error):
            error = Halt(f"{ADVICE} ({error_text(error)})", status=_EX_CONFIG)
        run.failure, run.failed_at = failure, self._clock.seconds()
        decision = self._decide(run, error)
        if isinstance(error, Pause) and self._on_pause is not None:
            # Before the message goes back, or it would come at once.
            self._on_pause(error.seconds)
        self._carry_out(run, failure, decision)
        if decision.halt:
            self._halt(error)

    @property
    def _waits(self) -> object:
        """
        Whether there are deliveries that are not settled.
        """
        return self._running or self._held or self._slots.has_ready or self._suspects

    def _has_settled(self) -> None:
        self._since = self._clock.seconds() if self._waits else None

    def reconnected(self) -> None:
        """
        There is a new connection: what happened on the last one does not count.
        """
        self._since = None

    def _decide(self, run: _Run, error: BaseException) -> Decision:
        policy = self.options.policy
        if isinstance(error, Requeue | Retry) and self._is_stream(run.delivery):
            error = Exception(error)  # as any other: the message cannot go back
        try:
            tries = self._tries(run.delivery)
        except UndecodableProperty as undecodable:
            tries = 1  # nobody can say how often it was tried
            if not isinstance(error, Halt):
                error = undecodable
        return policy.decide(error, tries, run.attempt)

    def _tries(self, delivery: Delivery) -> int:
        """
        How often a message was tried, this time included.
        """
        queues = self.options.retry_queues
        tries = 1
        if queues is not None:
            tries += queues.retries(delivery)
        if self.broker_delays and delivery.redelivered:
            tries += delivery.delivery_count or 0
        return tries

    def _is_stream(self, delivery: Delivery) -> bool:
        return self.options.stream or delivery.is_from_stream

    def _carry_out(self, run: _Run, failure: Failure, decision: Decision) -> None:
        delivery = run.delivery
        match decision.action:
            case Action.ACK:
                delivery.ack()
                self._record(run, failure, MessageOutcome.ACKNOWLEDGED, "acknowledged")
            case Action.REQUEUE | Action.HAND_BACK if self._is_stream(delivery):
                words = "it comes again after a reconnect"
                self._record(run, failure, MessageOutcome.REQUEUED, words)
            case Action.REQUEUE:
                delivery.reject(True)
                self._record(run, failure, MessageOutcome.REQUEUED, "requeued")
            case Action.HAND_BACK:
                delivery.nack()
                self._record(run, failure, MessageOutcome.REQUEUED, "requeued")
            case Action.HOLD if self.closing:
                self._give_back(delivery)
                self._record(run, failure, MessageOutcome.REQUEUED, "requeued")
            case Action.HOLD:
                words = f"its handler is called again in {decision.delay:g} s"
                self._record(run, failure, MessageOutcome.RETRIED, words)
                if run.running:
                    run.pause = decision.delay
                else:
                    self._pause(run, decision.delay)
            case Action.RETRY if self.broker_delays:
                delivery.reject(True)
                words = "its queue delivers it again after a delay"
                self._record(run, failure, MessageOutcome.RETRIED, words)
            case Action.RETRY | Action.DELAY | Action.DEAD_LETTER:
                self._send_on(run, decision)
            case _:
                self._reject(run, failure)

    def _reject(self, run: _Run, failure: Failure) -> None:
        if self._is_stream(run.delivery):
            run.delivery.ack()
            self._record(run, failure, MessageOutcome.REJECTED, "skipped")
        elif self.options.policy.discards:
            run.delivery.reject(False)
            self._record(run, failure, MessageOutcome.DISCARDED, "discarded")
        else:
            run.delivery.reject(False)
            words = "rejected"
            if self.options.policy.on_dead is Dead.EXCHANGE:
                words = "dead-lettered by its queue"
            self._record(run, failure, MessageOutcome.REJECTED, words)

    # -- publishing failed messages --------------------------------------------------

    def _send_on(self, run: _Run, decision: Decision) -> None:
        """
        Publish a message to a delay queue or the dead-letter queue, and acknowledge the
        original when the broker has confirmed it.
        """
        queues, failure = self.options.retry_queues, run.failure
        assert failure is not None
        queues = queues or RetryQueues(queue=self.queue)
        error = failure.value
        assert error is not None
        delays = run.delayed = decision.action is Action.DELAY
        if delays or decision.action is Action.RETRY:
            run.outcome = MessageOutcome.RETRIED
            run.words = f"retried in {decision.delay:g} s"
        else:
            run.outcome = MessageOutcome.DEAD_LETTERED
            run.words = f"dead-lettered to {printable(queues.dead_letter_queue)}"
        try:
            if delays:
                run.message = queues.delay(run.delivery, error, decision.delay)
            elif decision.action is Action.RETRY:
                run.message = queues.retry(run.delivery, error, decision.delay)
            else:
                tries = 1
                if not run.plain:
                    tries = max(self._tries_or_1(run.delivery), run.attempt)
                consumer = self.options.consumer
                run.message = queues.dead_letter(
                    run.delivery, error, tries, consumer, run.plain
                )
        except (UndecodableProperty, LocalProtocolError) as problem:
            self._cannot_send(run, problem)
            return
        if not run.held:
            self._hold(run)
        if delays and not self._has_delay_queues and self._restore is not None:
            self._has_delay_queues = True
            self._restore(True).addBoth(self._declared, run)
            return
        self._publish(run)

    def _tries_or_1(self, delivery: Delivery) -> int:
        try:
            return self._tries(delivery)
        except UndecodableProperty:
            return 1

    def _cannot_send(self, run: _Run, problem: BaseException) -> None:
        """
        A message cannot be published as it is: it is dead, with plain properties.
        """
        failure = run.failure
        assert failure is not None
        decision = self.options.policy.dead(run.attempt)
        if decision.action is not Action.DEAD_LETTER or run.plain:
            if decision.action is Action.DEAD_LETTER:
                self._send_later(run, problem)
                return
            self._carry_out(run, failure, decision)
            if run.held and decision.action is not Action.HOLD:
                self._release(run)
            if decision.halt:
                self._halt(failure.value)
            return
        run.plain = True
        self._send_on(run, decision)

    def _publish(self, run: _Run) -> None:
        run.call = None
        message = run.message
        assert self._republish is not None and message is not None
        run.sends += 1
        self._republish(message).addCallbacks(
            self._published,
            self._not_published,
            callbackArgs=(run,),
            errbackArgs=(run,),
        )

    def _published(self, _: object, run: _Run) -> None:
        self.problem = ""
        if not run.held:  # the message was given back meanwhile, and comes twice
            return
        if not (run.delivery.settled or run.delivery.is_stale):
            run.delivery.ack()
        self._record(run, run.failure, run.outcome, run.words)
        self._release(run)

    def _not_published(self, problem: Failure, run: _Run) -> None:
        delivery, error = run.delivery, problem.value
        assert error is not None
        if not run.held:
            return
        if delivery.settled or delivery.is_stale:
            words = "its channel has ended, and the broker delivers it again"
            self._record(run, run.failure, MessageOutcome.STALE, words)
            self._release(run)
        elif isinstance(error, LocalProtocolError) and not run.plain:
            self._cannot_send(run, error)
        elif (
            isinstance(error, Returned | NotFound)
            and self._restore is not None
            and run.restores < 1
        ):
            # The queue, or the exchange, was deleted.
            run.restores += 1
            _log.warn(
                "A queue for failed messages of the queue {queue} is missing, and is "
                "declared again: {error}",
                error=printable(str(error), 500),
                **self._details(run, run.outcome),
            )
            self._restore(run.delayed).addCallbacks(
                lambda _: self._restored(run, error),
                lambda failure: self._restored(run, failure.value),
            )
        else:
            run.restores = 0
            self._send_later(run, error)

    def _declared(self, result: object, run: _Run) -> None:
        """
        The delay queues of the virtual host were declared, or could not be.
        """
        if isinstance(result, Failure):
            self._has_delay_queues = False
            if run.held:
                assert result.value is not None
                self._send_later(run, result.value)
        elif run.held:
            self._publish(run)

    def _restored(self, run: _Run, error: BaseException) -> None:
        if not run.held:
            return
        if run.delivery.is_stale:
            self._drop(run)
        elif isinstance(error, Returned | NotFound):
            self._publish(run)
        else:
            self._send_later(run, error)

    def _send_later(self, run: _Run, error: BaseException) -> None:
        """
        Hold a failed message, and publish it again later.
        """
        problem = printable(error_text(error), 500)
        held_for = self._clock.seconds() - run.failed_at
        if held_for > _HELD_MAX or self.closing:
            self._give_back(run.delivery)
            words = f"requeued, since it cannot be published: {problem}"
            self._record(run, run.failure, MessageOutcome.REQUEUED, words)
            self._release(run)
            return
        least, most = _SEND_AGAIN
        delay = min(least * 2.0 ** min(max(run.sends - 1, 0), 10), most)
        if problem != self.problem:
            _log.error(
                "A failed message of the queue {queue} cannot be published, and is "
                "published again in {seconds:g} s: {error} ({identity})",
                error=problem,
                seconds=delay,
                **self._details(run, run.outcome),
            )
        self.problem = problem
        if not run.held:
            self._hold(run)
        run.call = self._clock.callLater(delay, self._publish_again, run)

    def _publish_again(self, run: _Run) -> None:
        run.call = None
        if run.delivery.is_stale or run.delivery.settled:
            self._drop(run)
        elif run.message is not None:
            self._publish(run)
        else:
            self._cannot_send(run, UndecodableProperty("headers", "unreadable", b""))

    def _halt(self, error: BaseException | None) -> None:
        if self._halted is None:
            return
        if not isinstance(error, Halt):
            text = "" if error is None else error_text(error)
            error = Halt(f"{type(error).__name__}: {text}")
        self._halted(error)

    # -- counting and logging --------------------------------------------------------

    def _count(self, run: _Run, outcome: MessageOutcome) -> None:
        self.counts.count(outcome)
        if self._histogram is not None:
            self._histogram.add(self._clock.seconds() - run.started)

    def _record(
        self,
        run: _Run,
        failure: Failure | None,
        outcome: MessageOutcome,
        words: str = "",
    ) -> None:
        """
        Count a settlement, and log it.
        """
        self._count(run, outcome)
        if outcome is not MessageOutcome.STALE:
            self._has_settled()
        if failure is None:
            if self.options.log_messages:
                self._log_success(run, outcome)
            return
        details = self._details(run, outcome)
        details["words"] = words
        error = failure.value
        if isinstance(error, _SAID):
            said = type(error).__name__
            if text := error_text(error):
                said = f"{said}: {text}"
            _log.info(
                "The handler raised {said} for a message from queue {queue}: {words} "
                "({identity})",
                said=printable(said, 500),
                **details,
            )
            return
        level = LogLevel.warn if outcome is MessageOutcome.RETRIED else LogLevel.error
        if self._shows_traceback():
            _log.failure(
                "The handler failed for a message from queue {queue}: {words} "
                "({identity})",
                failure=failure,
                level=level,
                **details,
            )
        else:
            text = "" if error is None else error_text(error)
            _log.emit(
                level,
                "The handler failed for a message from queue {queue}: {words} "
                "({identity}); {error}; tracebacks are left out, since many handlers "
                "fail",
                error=printable(f"{type(error).__qualname__}: {text}", 500),
                **details,
            )

    def _shows_traceback(self) -> bool:
        """
        Whether another traceback is logged in this second.
        """
        since, count = self._tracebacks
        now = self._clock.seconds()
        if now - since >= 1 or now < since:
            since, count = now, 0
        self._tracebacks = since, count + 1
        return count < _TRACEBACKS

    def _log_success(self, run: _Run, outcome: MessageOutcome) -> None:
        _log.info(
            "A message from queue {queue} was handled ({identity})",
            **self._details(run, outcome),
        )

    def _details(self, run: _Run, outcome: MessageOutcome) -> dict[str, Any]:
        delivery = run.delivery
        return {
            **delivery_fields(delivery),
            "queue": printable(self.queue),
            "consumer": self.consumer,
            "duration": round(self._clock.seconds() - run.started, 6),
            "outcome": outcome.value,
            "identity": identity(delivery),
        }


def _wait_in(waiting: list[Deferred[None]]) -> Deferred[None]:
    result: Deferred[None] = Deferred(waiting.remove)
    waiting.append(result)
    return result


def _fire(waiting: list[Deferred[None]]) -> None:
    fired, waiting[:] = list(waiting), []
    for each in fired:
        each.callback(None)
