# -*- test-case-name: txamqp091.test.support.test_history -*-
"""
Histories of tests in which everything goes wrong, and who judges them.

A `History` is written down while publishers, consumers and faults are at work; `check`
reads it afterwards.  It is a function of the history alone, and knows no broker: what
happened is told by those who were there, and by nobody else.

The rules are those of queues that deliver at least once, as the checkers of Jepsen have
them: what was confirmed is delivered or still there (*lost*), what comes was published
(*unexpected*), what comes although nobody knew whether it would is welcome
(*recovered*).  And those of this client: each publish ends once, what comes twice says
that it may, an acknowledgement that was not on its way when something broke is the end
of its message, and the messages of a publisher stay in their order.
"""

from __future__ import annotations

__all__ = ["Event", "History", "Kind", "Verdict", "Violation", "check", "marks"]

import enum
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

#: For how many seconds an acknowledgement may be on its way before a fault, and after.
GRACE = 2.0

#: What is no pause at all, in seconds.
_PAUSE = 0.1

COPY = "copy"
REDELIVERED = "redelivered"


class Kind(enum.Enum):
    """
    What happens.  Who does it is a publisher, a consumer, or whoever breaks things.
    """

    INVOKED = "invoked"  # detail: the queue
    CONFIRMED = "confirmed"
    NACKED = "nacked"  # the broker could not keep it, or so it says
    FAILED = "failed"  # it has never left; detail: why
    UNKNOWN = "unknown"  # it may have arrived; detail: why
    DELIVERED = "delivered"  # detail: its marks
    ACKED = "acked"  # detail: the marks of the delivery
    STALE = "stale"  # an acknowledgement that came too late to be sent
    REMAINS = "remains"  # found in its queue in the end; detail: its marks
    BROKEN = "broken"  # a fault begins; message: where; detail: which
    MENDED = "mended"  # it has ended
    DELETED = "deleted"  # a queue; message: its name
    LOST = "lost"  # a connection or a channel; detail: why


#: How a publish may end.
OUTCOMES = frozenset({Kind.CONFIRMED, Kind.NACKED, Kind.FAILED, Kind.UNKNOWN})

#: How a message may be seen.
SIGHTINGS = frozenset({Kind.DELIVERED, Kind.REMAINS})


class Event(NamedTuple):
    """
    One line of a history.

    :ivar message: ``"publisher:number"``, where it is about a message.
    """

    time: float
    kind: Kind
    who: str
    message: str
    detail: str = ""


def marks(redelivered: bool, is_copy: bool) -> str:
    """
    What a delivery says about itself: that it came before, or that it was published
    before.
    """
    return f"{REDELIVERED * redelivered} {COPY * is_copy}".strip()


class History:
    """
    What happened, in order.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.events: list[Event] = []
        self._clock = clock
        self._began = clock()

    def add(self, kind: Kind, who: str, message: str = "", detail: str = "") -> None:
        """
        Something has happened, now.
        """
        now = self._clock() - self._began
        self.events.append(Event(now, kind, who, message, detail))

    def of(self, message: str) -> Iterator[str]:
        """
        Everything about one message, to be read.
        """
        for time, kind, who, about, detail in self.events:
            if about == message:
                yield f"{time:.3f} {who} {kind.value} {detail}".rstrip()


class Violation(NamedTuple):
    """
    What should not have happened.

    :ivar rule: one of the names of the module's docstring, and the like.
    """

    rule: str
    message: str
    text: str


@dataclass
class Verdict:
    """
    What `check` has found.

    :ivar violations: what should not have happened.
    :ivar outcomes: how publishes ended, by the name of the `Kind`.
    :ivar seen: how many messages were delivered, or are still there.
    :ivar recovered: how many of those had an outcome that nobody knew.
    :ivar duplicates: how many deliveries there were too many.
    :ivar copies: how many were of messages that had been published once more.
    :ivar forgiven: how many messages went with a queue that was deleted.
    :ivar acked: how many acknowledgements were sent.
    :ivar judged: how many of them were not on their way when something broke.
    :ivar in_order: how many deliveries had to be in order.
    :ivar faults: how often each was done.
    :ivar pauses: the longest time in which a publisher had no confirm, by the fault
        that was about then; ``""`` is none.
    """

    violations: list[Violation] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    recovered: int = 0
    duplicates: int = 0
    copies: int = 0
    forgiven: int = 0
    acked: int = 0
    judged: int = 0
    in_order: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    pauses: dict[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """
        How many confirmed messages are nowhere.
        """
        return sum(each.rule == "lost" for each in self.violations)

    def told(self, history: History, most: int = 5) -> str:
        """
        The first violations of each kind, each with all about its message.
        """
        lines = []
        for rule, count in Counter(each.rule for each in self.violations).items():
            lines.append(f"{count} x {rule}")
            found = [each for each in self.violations if each.rule == rule]
            for _, message, text in found[:most]:
                lines.append(f"  {message}: {text}")
                lines.extend(f"    {line}" for line in history.of(message))
        return "\n".join(lines)


def check(events: Iterable[Event], *, grace: float = GRACE) -> Verdict:
    """
    Judge a history.

    :param grace: how many seconds before and after a fault an acknowledgement may have
        been on its way.
    """
    return _Judge(sorted(events, key=lambda each: each.time), grace).judge()


@dataclass(slots=True)
class _Account:
    """
    What became of one message.
    """

    queue: str = ""
    invoked: float | None = None
    outcomes: list[Kind] = field(default_factory=list)
    # Sightings and acknowledgements, in order.
    course: list[Event] = field(default_factory=list)

    @property
    def sightings(self) -> list[Event]:
        return [each for each in self.course if each.kind in SIGHTINGS]

    @property
    def has_copies(self) -> bool:
        return any(COPY in each.detail for each in self.course)


class _Spans:
    """
    Times in which something was wrong.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin, end in sorted(spans):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def __contains__(self, time: float) -> bool:
        place = bisect_right(self._begins, time)
        return place > 0 and time <= self._ends[place - 1]


class _Judge:
    """
    Reads a history once, and then looks at each message.
    """

    def __init__(self, events: list[Event], grace: float) -> None:
        self._events = events
        self._verdict = Verdict()
        self._accounts: dict[str, _Account] = {}
        self._faults: list[tuple[str, float, float]] = []
        #: When each queue was deleted for the last time.
        self._deleted: dict[str, float] = {}
        losses = self._read()
        spans = [(begin, end) for _, begin, end in self._faults]
        spans += [(time, time) for time in losses]
        self._wrong = _Spans((begin - grace, end + grace) for begin, end in spans)

    def _read(self) -> list[float]:
        losses: list[float] = []
        open_faults: dict[tuple[str, str], float] = {}
        for event in self._events:
            time, kind, _, message, detail = event
            if kind is Kind.BROKEN:
                open_faults[message, detail] = time
                self._verdict.faults[detail] += 1
            elif kind is Kind.MENDED:
                begin = open_faults.pop((message, detail), time)
                self._faults.append((detail, begin, time))
            elif kind is Kind.DELETED:
                self._deleted[message] = time
            elif kind is Kind.LOST:
                losses.append(time)
            else:
                self._note(event)
        for (_, fault), begin in open_faults.items():
            self._faults.append((fault, begin, float("inf")))
        return losses

    def _note(self, event: Event) -> None:
        account = self._accounts.get(event.message)
        if account is None:
            account = self._accounts[event.message] = _Account()
        if event.kind is Kind.INVOKED:
            account.queue = event.detail
            account.invoked = event.time
        elif event.kind in OUTCOMES:
            account.outcomes.append(event.kind)
        elif event.kind is not Kind.STALE:
            account.course.append(event)

    def judge(self) -> Verdict:
        """
        Come to a verdict.
        """
        for message, account in self._accounts.items():
            if account.invoked is None:
                self._violation("unexpected", message, "nobody has published it")
                continue
            self._judge_outcome(message, account)
            self._judge_sightings(message, account)
            self._judge_acks(message, account)
        self._judge_order()
        self._measure_pauses()
        return self._verdict

    def _violation(self, rule: str, message: str, text: str) -> None:
        self._verdict.violations.append(Violation(rule, message, text))

    def _judge_outcome(self, message: str, account: _Account) -> None:
        outcomes = account.outcomes
        if not outcomes:
            self._violation("unresolved", message, "nobody knows how its publish ended")
        elif len(outcomes) > 1:
            ends = ", ".join(each.value for each in outcomes)
            self._violation("ended twice", message, f"its publish has ended: {ends}")
        for outcome in outcomes[:1]:
            self._verdict.outcomes[outcome.value] += 1

    def _judge_sightings(self, message: str, account: _Account) -> None:
        verdict, sightings = self._verdict, account.sightings
        if not sightings:
            if Kind.CONFIRMED not in account.outcomes:
                return
            if self._may_have_gone(account):
                verdict.forgiven += 1
            else:
                self._violation("lost", message, "confirmed, and nowhere")
            return
        assert account.invoked is not None
        verdict.seen += 1
        deliveries = [each for each in sightings if each.kind is Kind.DELIVERED]
        verdict.duplicates += max(len(deliveries) - 1, 0)
        verdict.copies += sum(each.detail == COPY for each in deliveries)
        if sightings[0].time < account.invoked:
            self._violation("unexpected", message, "it came before it was published")
        if Kind.FAILED in account.outcomes:
            self._violation("unexpected", message, "it was said to have never left")
        elif Kind.CONFIRMED not in account.outcomes:
            verdict.recovered += 1
        # A node that was frozen may come with the first copy after the second.
        if sum(not each.detail for each in sightings) > 1:
            self._violation("unmarked", message, "it came twice, and did not say so")

    def _may_have_gone(self, account: _Account) -> bool:
        """
        Whether a message was published before its queue was deleted.
        """
        deleted = self._deleted.get(account.queue)
        return deleted is not None and (account.invoked or 0.0) <= deleted

    def _judge_acks(self, message: str, account: _Account) -> None:
        """
        Of the first copy: how many others there are, nobody knows.
        """
        settled: float | None = None
        for time, kind, who, _, detail in account.course:
            if kind is Kind.ACKED:
                self._verdict.acked += 1
                if time not in self._wrong:
                    self._verdict.judged += 1
                    if COPY not in detail:
                        settled = time
            elif settled is not None and COPY not in detail:
                self._violation(
                    "again after its ack",
                    message,
                    f"acked at {settled:.3f}, and {kind.value} at {time:.3f} ({who})",
                )

    def _judge_order(self) -> None:
        """
        Each consumer sees the messages of each publisher in their order, but for those
        that it is told may be out of it, and those that were in doubt.
        """
        last: dict[tuple[str, str], int] = {}
        for _, kind, who, message, detail in self._events:
            if kind is not Kind.DELIVERED or detail:
                continue
            account = self._accounts[message]
            doubtful = account.has_copies or account.outcomes != [Kind.CONFIRMED]
            if doubtful or self._may_have_gone(account):
                continue
            publisher, _, number = message.rpartition(":")
            before = last.get((publisher, who), -1)
            if int(number) < before:
                text = f"{who} had {publisher}:{before} before it"
                self._violation("out of order", message, text)
            last[publisher, who] = max(before, int(number))
            self._verdict.in_order += 1

    def _measure_pauses(self) -> None:
        """
        How long each publisher had to wait for a confirm, and what was wrong then.
        """
        last: dict[str, float] = {}
        pauses = self._verdict.pauses
        for time, kind, who, _, _ in self._events:
            if kind is not Kind.CONFIRMED:
                continue
            began = last.get(who, time)
            last[who] = time
            if time - began < _PAUSE:
                continue
            about = {
                fault
                for fault, begin, end in self._faults
                if begin <= time and began <= end
            }
            for fault in about or {""}:
                pauses[fault] = max(pauses.get(fault, 0.0), time - began)
