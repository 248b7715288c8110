# -*- test-case-name: txamqp091.test.unit.worker.test_failure_policy -*-
"""
Decides how a message is settled after its handler ended.

The exceptions are for handlers to raise.  `FailurePolicy` is the policy of a consumer,
and `FailurePolicy.decide` applies it to one failure of one message.
`txamqp091.worker.handler_runner.HandlerRunner` carries the decision out.
"""

from __future__ import annotations

__all__ = [
    "Action",
    "Decision",
    "Halt",
    "HandlerTimeout",
    "OnError",
    "OnRefused",
    "FailurePolicy",
    "Reject",
    "Requeue",
    "Retry",
    "TooManyDeliveries",
    "delivery_count",
    "retry_count",
]

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from txamqp091.errors import ContentTooLarge, UndecodableProperty

#: The header that counts how often a message went through a delay queue.
RETRY_COUNT = "x-retry-count"

#: The header in which quorum queues count the deliveries that failed.
DELIVERY_COUNT = "x-delivery-count"


# -- what a handler may raise ----------------------------------------------------


class Reject(Exception):
    """
    Raised by a handler: nothing will ever come of this message.  It is parked, or
    goes to the dead letters, at once.
    """


class Requeue(Exception):
    """
    Raised by a handler: not now.  The message goes back to its queue, to be delivered
    again soon, to whichever consumer.  A quorum queue counts that towards its delivery
    limit; a classic queue counts nothing, and may deliver it again and again.
    """


class Retry(Exception):
    """
    Raised by a handler: try again after the consumer's next delay, whatever its
    ``on_error`` is.
    """


class Halt(Exception):
    """
    Raised by a handler: end the daemon.  The message goes back to its queue.

    :ivar done: whether the message was dealt with, so that it is acknowledged instead.
    :ivar status: what the process is to exit with; None for the daemon's own choice.
    """

    def __init__(
        self, reason: str = "", *, done: bool = False, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.done = done
        self.status = status


class HandlerTimeout(Exception):
    """
    A handler took longer than its consumer allows.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the handler took longer than {self.seconds:g} s"


class TooManyDeliveries(Exception):
    """
    A message was delivered again and again, and nobody answered for it: it ends those
    who try.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"it was delivered {self.count} times before, without an answer"


# -- the decision ----------------------------------------------------------------


class Action(Enum):
    """
    What is done with a message.
    """

    ACK = "ack"
    #: To the dead letters of its queue, if there are any; ``basic.reject``.
    REJECT = "reject"
    #: Back to its queue, as a failure; ``basic.reject``.
    REQUEUE = "requeue"
    #: Back to its queue, as no fault of the message; ``basic.nack``.
    HAND_BACK = "hand back"
    #: To a delay queue; or ``basic.reject`` where the broker itself delays.
    RETRY = "retry"
    #: To the parking queue, with the error in its headers.
    DEAD_LETTER = "park"


@dataclass(frozen=True)
class Decision:
    """
    What is done with one message.

    :ivar delay: for `Action.RETRY`, how many seconds it is to wait.
    :ivar halt: whether the daemon ends.
    """

    action: Action
    delay: float = 0.0
    halt: bool = False


class OnError(Enum):
    """
    What an exception of a handler means, if it is none of those above.
    """

    #: The first time the message goes back to its queue, the second time it is dead.
    ONCE_MORE = "once-more"
    #: It is tried again after growing delays, so many times, and then it is dead.
    RETRY = "retry"
    #: It is dead at once.
    REJECT = "reject"
    #: It goes back, and the daemon ends.
    HALT = "halt"


class OnRefused(Enum):
    """
    What it means that the broker does not let a consumer consume, and will not until
    somebody changes something.
    """

    #: The daemon ends if the consumer has never consumed; later on it waits.
    END_AT_START = "end-at-start"
    #: The daemon ends.
    END = "end"
    #: It is not ready, and tries again and again.
    WAIT = "wait"


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """
    What a consumer does with its messages.

    :ivar on_error: what an exception means.
    :ivar attempts: how often a message is tried, with `OnError.RETRY`.
    :ivar delays: how many seconds it waits before the second try, the third...; the
        last one counts for all that follow.
    :ivar parks: whether there is a parking queue.  Else what is dead is rejected.
    :ivar max_deliveries: how many deliveries without an answer make a message dead,
        before the handler sees it; 0 is no limit.  Only quorum queues count them.
    """

    on_error: OnError = OnError.ONCE_MORE
    attempts: int = 1
    delays: tuple[float, ...] = ()
    parks: bool = False
    max_deliveries: int = 0

    def decide(
        self,
        error: BaseException | None,
        tries: int,
        redelivered: bool,
    ) -> Decision:
        """
        What is to be done.

        :param error: what the handler failed with; None if it succeeded.
        :param tries: how often the message has been tried, this one included.
        :param redelivered: whether the broker says that it was delivered before.
        """
        if error is None:
            return Decision(Action.ACK)
        if isinstance(error, Halt):
            action = Action.ACK if error.done else Action.HAND_BACK
            return Decision(action, halt=True)
        # What cannot be read now will not be readable later; and whatever is sent on
        # would have to be read first.
        if isinstance(error, UndecodableProperty | ContentTooLarge):
            return Decision(Action.REJECT)
        if isinstance(error, Requeue):
            return Decision(Action.REQUEUE)
        if isinstance(error, Reject | TooManyDeliveries):
            return self._dead()
        if isinstance(error, Retry) and self.delays:
            return self._again(tries)
        match self.on_error:
            case OnError.RETRY:
                return self._again(tries)
            case OnError.REJECT:
                return self._dead()
            case OnError.HALT:
                return Decision(Action.HAND_BACK, halt=True)
            case _:
                return self._dead() if redelivered else Decision(Action.REQUEUE)

    def delay(self, tries: int) -> float:
        """
        How many seconds a message waits that was tried so often.
        """
        if not self.delays:
            return 0.0
        return self.delays[min(tries, len(self.delays)) - 1]

    def _again(self, tries: int) -> Decision:
        if tries >= self.attempts:
            return self._dead()
        return Decision(Action.RETRY, delay=self.delay(tries))

    def _dead(self) -> Decision:
        return Decision(Action.DEAD_LETTER if self.parks else Action.REJECT)


def retry_count(headers: Mapping[str, Any]) -> int:
    """
    How often a message has been sent through a delay queue.
    """
    return _count(headers, RETRY_COUNT)


def delivery_count(headers: Mapping[str, Any]) -> int:
    """
    How often a quorum queue has delivered a message in vain; 0 on other queues.
    """
    return _count(headers, DELIVERY_COUNT)


def _count(headers: Mapping[str, Any], name: str) -> int:
    # Anybody may have written it.
    count = headers.get(name)
    if isinstance(count, bool) or not isinstance(count, int):
        return 0
    return max(count, 0)
