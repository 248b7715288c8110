# -*- test-case-name: txamqp091.test.unit.worker.test_failure_policy -*-
"""
Decides how a message is settled after its handler failed.

Handlers may raise the exceptions below.  `FailurePolicy` is the policy of a consumer,
and `FailurePolicy.decide` applies it to one failure of one message.
`txamqp091.worker.handler_runner.HandlerRunner` carries the decision out.

A message is *dead* when it is not to be tried again.  `Dead` says what happens then.
"""

from __future__ import annotations

__all__ = [
    "Action",
    "Dead",
    "Decision",
    "FailurePolicy",
    "Halt",
    "HandlerTimeout",
    "OnError",
    "OnRefused",
    "Pause",
    "Reject",
    "Requeue",
    "Retry",
    "TooManyDeliveries",
    "retry_count",
]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from txamqp091.errors import UndecodableProperty
from txamqp091.service.delay_queues import delay_seconds
from txamqp091.worker.decoding import UndecodableBody

#: The header that counts how often a message went through a delay queue.
RETRY_COUNT = "x-retry-count"


# -- what a handler may raise ----------------------------------------------------


class Reject(Exception):
    """
    Raised by a handler: the message is dead at once.  It goes to the dead-letter queue,
    or to the dead-letter exchange of its queue.
    """


class Requeue(Exception):
    """
    Raised by a handler: the message goes back to its queue, and the broker delivers it
    again soon, to any consumer.  A quorum queue counts that towards its delivery limit;
    a classic queue counts nothing, and may deliver the message again and again.
    """


class Retry(Exception):
    """
    Raised by a handler: the consumer retries the message after its next delay, whatever
    ``on_error`` says.

    :ivar after: how many seconds the message waits instead, in the delay queues of
        `txamqp091.service.Publisher`: any delay from one second to eight years, rounded
        up to whole seconds.  None is the next delay of the consumer.
    """

    def __init__(self, *arguments: object, after: float | None = None) -> None:
        super().__init__(*arguments)
        if after is not None:
            delay_seconds(after)
        self.after = after


class Pause(Exception):
    """
    Raised by a handler: the message goes back to its queue, without being counted as a
    failure, and the consumer consumes nothing for a while.

    :ivar seconds: for how long; None is until `ConsumerService.resume` is called.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__("for ever" if seconds is None else f"for {seconds:g} s")
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError(f"a pause of {seconds} s")
        self.seconds = seconds


class Halt(Exception):
    """
    Raised by a handler: the daemon ends.  The message goes back to its queue.

    :ivar done: whether the message was handled.  It is acknowledged then.
    :ivar status: the exit status of the process; None for the daemon's own choice.
    """

    def __init__(
        self, reason: str = "", *, done: bool = False, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.done = done
        self.status = status


class HandlerTimeout(Exception):
    """
    A handler took longer than ``timeout`` allows.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the handler took longer than {self.seconds:g} s"


class TooManyDeliveries(Exception):
    """
    A message was delivered as often as ``max_deliveries`` allows and was never settled:
    it probably ends the processes that handle it.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"it was delivered {self.count} times before, and never settled"


#: No further attempt can succeed.
_DEAD = (Reject, TooManyDeliveries, UndecodableProperty, UndecodableBody)


# -- the decision ----------------------------------------------------------------


class Action(Enum):
    """
    How a message is settled.
    """

    ACK = "ack"
    #: ``basic.reject`` without requeue: the dead-letter exchange of its queue takes it,
    #: or it is discarded.
    REJECT = "reject"
    #: ``basic.reject`` with requeue, which quorum queues count as a failure.
    REQUEUE = "requeue"
    #: ``basic.nack`` with requeue, which RabbitMQ 4.3 does not count as a failure.
    HAND_BACK = "hand back"
    #: The message stays here, unsettled, and the handler is called again later.
    HOLD = "hold"
    #: To a delay queue; or ``basic.reject`` where the queue itself delays.
    RETRY = "retry"
    #: To the delay queues of the virtual host, which know any delay.
    DELAY = "delay"
    #: To the dead-letter queue, with the error in its headers.
    DEAD_LETTER = "dead-letter"


@dataclass(frozen=True)
class Decision:
    """
    How one message is settled.

    :ivar delay: for `Action.RETRY`, `Action.DELAY` and `Action.HOLD`, how many seconds
        it waits.
    :ivar halt: whether the daemon ends.
    """

    action: Action
    delay: float = 0.0
    halt: bool = False


class OnError(Enum):
    """
    What an exception of a handler means, if it is none of those above.
    """

    #: The handler is called a second time, a little later; then the message is dead.
    ONCE_MORE = "once-more"
    #: The message is retried after growing delays, so many times; then it is dead.
    RETRY = "retry"
    #: The message is dead at once.
    REJECT = "reject"
    #: The message is discarded at once.
    DROP = "drop"
    #: The message goes back to its queue, and the daemon ends.
    HALT = "halt"


class Dead(Enum):
    """
    What happens to a dead message.
    """

    #: It is published to the dead-letter queue, with the error in its headers.
    QUEUE = "dead-letter queue"
    #: It is rejected: its queue has a dead-letter exchange.
    EXCHANGE = "dead-letter exchange"
    #: It is rejected, and so discarded unless its queue has a dead-letter exchange.
    DROP = "drop"
    #: It is kept: the handler is called again and again, with growing delays, until
    #: somebody stops the consumer.  What a handler itself says `Reject` to is rejected.
    KEEP = "keep"
    #: It goes back to its queue, and the daemon ends.
    HALT = "halt"


class OnRefused(Enum):
    """
    What it means that the broker refuses a consumer, and will refuse it until somebody
    changes the configuration.
    """

    #: The consumer ends if it has never consumed; later it waits.
    END_AT_START = "end-at-start"
    #: The consumer ends.
    END = "end"
    #: The consumer is not ready, and subscribes again and again.
    WAIT = "wait"


#: How many seconds a dead message without a place waits, at the least and at the most,
#: before its handler is called again.
_KEPT_DELAYS = (5.0, 300.0)


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """
    How a consumer settles messages whose handler failed.

    :ivar on_error: what an exception means.
    :ivar attempts: how often a message is tried, with `OnError.RETRY`.
    :ivar delays: how many seconds a message waits before the second attempt, the
        third...; the last one counts for all that follow.
    :ivar pause: how many seconds a message waits before its second attempt, with
        `OnError.ONCE_MORE`.
    :ivar on_dead: what happens to a dead message.
    :ivar max_deliveries: how many deliveries without an answer make a message dead,
        before the handler is called; 0 is no limit.  Only quorum queues count them.
    """

    on_error: OnError = OnError.ONCE_MORE
    attempts: int = 1
    delays: tuple[float, ...] = ()
    pause: float = 5.0
    on_dead: Dead = Dead.KEEP
    max_deliveries: int = 0

    def decide(self, error: BaseException, tries: int, attempt: int = 1) -> Decision:
        """
        Decide how to settle a message.

        :param error: what the handler failed with.
        :param tries: how often the message was tried, this attempt included, as the
            broker and the headers count.
        :param attempt: the number of this attempt since the message was delivered.
        """
        if isinstance(error, Halt):
            return Decision(Action.ACK if error.done else Action.HAND_BACK, halt=True)
        if isinstance(error, Requeue):
            return Decision(Action.REQUEUE)
        if isinstance(error, Pause):
            return Decision(Action.HAND_BACK)
        # What cannot be decoded now cannot be decoded later.
        if isinstance(error, _DEAD):
            return self.dead(attempt, rejected=isinstance(error, Reject))
        if isinstance(error, Retry) and error.after is not None:
            if self.on_error is OnError.RETRY and tries >= self.attempts:
                return self.dead(attempt)
            return Decision(Action.DELAY, delay=error.after)
        if isinstance(error, Retry) and self.delays:
            return self._retry(tries, attempt)
        match self.on_error:
            case OnError.RETRY:
                return self._retry(tries, attempt)
            case OnError.REJECT:
                return self.dead(attempt)
            case OnError.DROP:
                return Decision(Action.REJECT)
            case OnError.HALT:
                return Decision(Action.HAND_BACK, halt=True)
            case _ if attempt == 1:
                return Decision(Action.HOLD, delay=self.pause)
            case _:
                return self.dead(attempt)

    def is_suspect(self, deliveries: int) -> bool:
        """
        Whether a message was delivered so often without an answer that its handler is
        to run alone, since it may end the process.
        """
        return bool(self.max_deliveries) and 2 * deliveries >= self.max_deliveries

    def is_used_up(self, deliveries: int) -> bool:
        """
        Whether a message was delivered so often without an answer that it is dead.
        """
        # It has run alone at least once: others are not counted out for it.
        return bool(self.max_deliveries) and deliveries >= max(self.max_deliveries, 2)

    def delay(self, tries: int) -> float:
        """
        How many seconds a message waits that was tried so often.
        """
        if not self.delays:
            return 0.0
        return self.delays[min(tries, len(self.delays)) - 1]

    def _retry(self, tries: int, attempt: int) -> Decision:
        if tries >= self.attempts:
            return self.dead(attempt)
        return Decision(Action.RETRY, delay=self.delay(tries))

    @property
    def discards(self) -> bool:
        """
        Whether dead messages are discarded.
        """
        return self.on_error is OnError.DROP or self.on_dead is Dead.DROP

    def dead(self, attempt: int, rejected: bool = False) -> Decision:
        """
        Decide how to settle a dead message.

        :param attempt: see `decide`.
        :param rejected: whether the handler has raised `Reject`.
        """
        if self.discards:
            return Decision(Action.REJECT)
        match self.on_dead:
            case Dead.QUEUE:
                return Decision(Action.DEAD_LETTER)
            case Dead.HALT:
                return Decision(Action.HAND_BACK, halt=True)
            case Dead.KEEP if not rejected:
                least, most = _KEPT_DELAYS
                return Decision(
                    Action.HOLD, delay=min(least * 2 ** min(attempt - 1, 10), most)
                )
            case _:
                return Decision(Action.REJECT)


def retry_count(headers: Mapping[str, Any]) -> int:
    """
    How often a message was sent through a delay queue.
    """
    # Any publisher may have written it.
    count = headers.get(RETRY_COUNT)
    if isinstance(count, bool) or not isinstance(count, int):
        return 0
    return max(count, 0)
