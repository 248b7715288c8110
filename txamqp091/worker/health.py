# -*- test-case-name: txamqp091.test.unit.daemon.test_admin -*-
"""
The health of consumers and of a daemon, as data: `ConsumerHealth` and `Health`.

The admin site, the metrics and systemd's status line show it.
"""

from __future__ import annotations

__all__ = ["ConsumerHealth", "Health"]

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from txamqp091.worker.counts import Counts


@dataclass(frozen=True, kw_only=True)
class ConsumerHealth:
    """
    The health of one consumer.

    :ivar subscribed: whether the broker delivers messages to it.
    :ivar paused: whether the consumer is paused; this is no problem.
    :ivar resumes_in: after how many seconds a pause ends; None if it has no end.
    :ivar refused: why the broker refuses it, and will until somebody changes something;
        "" if the broker does not.
    :ivar looking: how many messages it has fetched one by one before it subscribes,
        since they were delivered before and never settled.
    :ivar running: how many handlers run.
    :ivar waiting: how many deliveries wait for a handler.
    :ivar held: how many failed messages are not settled yet.
    :ivar unpublished: why failed messages cannot be published; "" if they can.
    :ivar blocked: why the broker takes no failed messages; "" if it does, or if there
        are none.
    :ivar stalled: for how many seconds no message was settled, if the consumer can take
        no more and that is too long; else 0.
    :ivar idle: how many seconds ago the last handler was called; None if none was.
    :ivar counts: how many messages were settled in which way.
    """

    name: str
    queue: str
    subscribed: bool
    paused: bool = False
    resumes_in: float | None = None
    refused: str = ""
    looking: int = 0
    running: int = 0
    waiting: int = 0
    held: int = 0
    unpublished: str = ""
    blocked: str = ""
    stalled: float = 0.0
    idle: float | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def problem(self) -> str:
        """
        Why it is not ready; "" if it is.
        """
        if self.refused:
            return f"the broker refuses it: {self.refused}"
        if self.looking:
            return "it handles messages one by one that were never settled before"
        if not self.subscribed and not self.paused:
            return "not subscribed"
        if self.unpublished:
            return f"failed messages cannot be published: {self.unpublished}"
        if self.stalled and self.blocked:
            return (
                f"blocked: {self.held} failed messages wait, since the broker takes no "
                f"messages ({self.blocked})"
            )
        if self.stalled:
            return f"no message was settled for {self.stalled:.0f} s"
        return ""


@dataclass(frozen=True, kw_only=True)
class Health:
    """
    How the daemon is.

    :ivar connected: whether AMQP is open.
    :ivar error: why it is not, or why the last connection ended; "" if unknown.
    :ivar blocked: why the broker lets nobody publish; "" if it does.
    :ivar stopping: whether the daemon is about to end.
    :ivar expired: whether the token has expired, and there is no new one.
    :ivar problem: another reason why the daemon is not ready; "" for none.
    :ivar undeclared: what is to be declared, and could not be, and why.
    """

    consumers: Sequence[ConsumerHealth] = ()
    connected: bool = True
    error: str = ""
    blocked: str = ""
    stopping: bool = False
    expired: bool = False
    problem: str = ""
    undeclared: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """
        Why it is not ready.
        """
        problems = ["stopping"] if self.stopping else []
        if not self.connected:
            problems.append(
                f"not connected: {self.error}" if self.error else "not connected"
            )
        if self.expired:
            problems.append("the token has expired")
        if self.problem:
            problems.append(self.problem)
        problems += [f"not declared: {each}" for each in self.undeclared]
        for each in self.consumers:
            if each.problem:
                problems.append(f"{each.name}: {each.problem}")
        return problems

    @property
    def ready(self) -> bool:
        """
        Whether every consumer is subscribed and gets on.
        """
        return bool(self.consumers) and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """
        The same as plain data.
        """
        return {
            "ready": self.ready,
            "problems": self.problems,
            "connected": self.connected,
            "blocked": self.blocked,
            "stopping": self.stopping,
            "expired": self.expired,
            "undeclared": list(self.undeclared),
            "consumers": [asdict(each) for each in self.consumers],
        }
