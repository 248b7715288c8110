# -*- test-case-name: txamqp091.test.test_broker_queues -*-
"""
What a dropped message tells of its past: ``x-death``, and the dead letter.

A `Death` is one row of the header.  Which queue drops what, and when, is in
`txamqp091.testing.classic`; where the dead letter goes from here, in
`txamqp091.testing.vhosts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from txamqp091.testing.arguments import QueueSettings
from txamqp091.testing.behaviour import Behaviour
from txamqp091.testing.messages import Entry, Message, headers_of, with_properties
from txamqp091.wire.types import FieldValue, Int64

__all__ = ["Death", "dead_letter", "is_cycle"]


@dataclass(frozen=True)
class Death:
    """
    That a message was dropped from one queue, for one reason, so many times.

    :ivar reason: ``rejected``, ``expired``, ``maxlen`` or ``delivery_limit``.
    :ivar time: when it was the first time, in seconds since 1970.
    :ivar exchange: where the message had been published to, then.
    :ivar routing_keys: and with which keys, those in its header ``CC`` included.
    :ivar expiration: the time to live that the message had of its own, or "".
    """

    queue: str
    reason: str
    count: int
    time: int
    exchange: str
    routing_keys: tuple[str, ...]
    expiration: str = ""

    def row(self) -> dict[str, FieldValue]:
        """
        It as a row of the header ``x-death``.
        """
        row: dict[str, FieldValue] = {
            "count": Int64(self.count),
            "reason": self.reason,
            "queue": self.queue,
            "time": datetime.fromtimestamp(self.time, UTC),
            "exchange": self.exchange,
            "routing-keys": list(self.routing_keys),
        }
        if self.expiration:
            row["original-expiration"] = self.expiration
        return row


def dead_letter(
    entry: Entry,
    queue: str,
    reason: str,
    settings: QueueSettings,
    now: float,
    behaviour: Behaviour,
) -> Message:
    """
    The message that a queue publishes in the place of one that it drops.

    :param now: in seconds since 1970.
    """
    message = entry.message
    assert settings.dead_letter_exchange is not None
    headers = dict(headers_of(message.properties))
    deaths = message.deaths
    if not deaths and not behaviour.deaths_apart:
        deaths = _deaths_in(headers)
    deaths = _add(deaths, message, queue, reason, now)
    first = message.first_death or (queue, reason, message.exchange)
    if behaviour.deaths_apart or message.deaths or "x-death" not in headers:
        _describe(headers, "first", first)
    headers["x-death"] = [each.row() for each in deaths]
    if behaviour.deaths_apart:
        _describe(headers, "last", (queue, reason, message.exchange))
    marked = behaviour.keeps_redelivered
    keys = message.routing_keys
    if settings.dead_letter_key is not None:
        keys = (settings.dead_letter_key,)
        if not behaviour.keeps_copies:
            headers.pop("CC", None)
    return Message(
        settings.dead_letter_exchange,
        keys,
        with_properties(message.properties, headers=headers, expiration=None),
        message.body,
        deaths=deaths,
        first_death=first,
        returned=marked and (message.returned or entry.returns > 0),
        rejected=marked and entry.failed,
    )


def _describe(
    headers: dict[str, FieldValue], which: str, death: tuple[str, str, str]
) -> None:
    queue, reason, exchange = death
    headers[f"x-{which}-death-queue"] = queue
    headers[f"x-{which}-death-reason"] = reason
    headers[f"x-{which}-death-exchange"] = exchange


def _add(
    deaths: tuple[Death, ...], message: Message, queue: str, reason: str, now: float
) -> tuple[Death, ...]:
    """
    The deaths with one more, which comes first.
    """
    before = tuple(
        each for each in deaths if (each.queue, each.reason) != (queue, reason)
    )
    for each in deaths:
        if each not in before:
            return (replace(each, count=each.count + 1), *before)
    copies = headers_of(message.properties).get("CC")
    keys = (message.routing_key, *map(str, copies if isinstance(copies, list) else ()))
    expiration = "" if message.ttl is None else message.properties.expiration or ""
    death = Death(queue, reason, 1, int(now), message.exchange, keys, expiration)
    return (death, *before)


def _deaths_in(headers: Mapping[str, FieldValue]) -> tuple[Death, ...]:
    """
    The deaths that a message's headers tell of; rows that make no sense are left out.
    """
    rows = headers.get("x-death")
    found = []
    for row in rows if isinstance(rows, list | tuple) else ():
        if not isinstance(row, Mapping):
            continue
        time, keys, count = row.get("time"), row.get("routing-keys"), row.get("count")
        found.append(
            Death(
                str(row.get("queue", "")),
                str(row.get("reason", "")),
                count if isinstance(count, int) else 1,
                int(time.timestamp()) if isinstance(time, datetime) else 0,
                str(row.get("exchange", "")),
                tuple(map(str, keys)) if isinstance(keys, list | tuple) else (),
                str(row.get("original-expiration", "")),
            )
        )
    return tuple(found)


def is_cycle(deaths: Sequence[Death], queue: str) -> bool:
    """
    Whether a message goes round in circles by itself: it has been in this queue
    before, and no client has rejected it since.
    """
    for death in deaths:
        if death.reason == "rejected":
            return False
        if death.queue == queue:
            return True
    return False
