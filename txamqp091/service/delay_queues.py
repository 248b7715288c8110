# -*- test-case-name: txamqp091.test.unit.service.test_delay_queues -*-
"""
Delay queues: quorum queues that hold a message for any whole number of seconds.

Theory.  There is one level for each power of two: level 3 holds a message for 8 s.  A
level is a topic exchange and a queue with a message TTL.  The delay is written in
binary into an additional routing key, one word for each level: a 1 leads into the
level's queue, a 0 past it.  What expires in a queue is dead-lettered to the exchange of
the level below.  After level 0 the exchange ``txamqp091-delay-out`` passes the message
to its destination.

The additional key is in the header ``CC``, which RabbitMQ routes by as well, so that
the message keeps its own routing key all the way.  In each queue all messages have the
same TTL, so the first to come is the first to expire, and no delay waits for a longer
one.  The queues dead-letter *at least once* and reject what they cannot store: no level
loses a message.

This module has the names, entities, routes and headers; `txamqp091.service.publisher`
publishes.
"""

from __future__ import annotations

__all__ = ["LEVELS", "MAX_DELAY", "DelayQueues", "delay_seconds"]

import hashlib
import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from txamqp091.arguments import quorum_queue
from txamqp091.service.entities import Binding, Entity, Exchange, Queue

#: How many levels, and so queues, there are.
LEVELS = 28

#: The longest delay in seconds: more than eight years.
MAX_DELAY = (1 << LEVELS) - 1

# The first part of all names, and the first word of the additional routing key.
_PREFIX = "txamqp091-delay"
_OUT = f"{_PREFIX}-out"

# A longer name of a destination is replaced by its digest: a binding key has at most
# 255 octets.
_LONGEST = 150

# The broker's own notes about earlier deaths.  RabbitMQ takes a message that expired in
# a queue before for one that goes in circles, and drops it.
_NOTES = re.compile(r"x-death|x-(first|last)-death-(exchange|queue|reason)")


def delay_seconds(delay: float) -> int:
    """
    Round a delay up to whole seconds, so that no message is early.

    :raises TypeError: it is not a number.
    :raises ValueError: it is negative, not finite, or longer than `MAX_DELAY`.
    """
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise TypeError(f"a delay is a number of seconds, not {delay!r}")
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"a delay of {delay} s: 0 to {MAX_DELAY} s are possible")
    return math.ceil(delay)


class DelayQueues:
    """
    The delay queues of a virtual host: what to declare, and how to publish to them.

    All programs on a virtual host share them.
    """

    out = Exchange(name=_OUT, type="topic")

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """
        The exchanges of the levels.
        """
        return [
            Exchange(name=_level_name(level), type="topic") for level in range(LEVELS)
        ]

    @cached_property
    def queues(self) -> list[Queue]:
        """
        The queues of the levels.
        """
        return [
            Queue(
                name=_level_name(level),
                arguments=quorum_queue(
                    message_ttl=1 << level,
                    dead_letter_exchange=_below(level),
                    dead_letter_strategy="at-least-once",
                    overflow="reject-publish",
                ),
            )
            for level in range(LEVELS)
        ]

    def entities(self) -> list[Entity]:
        """
        All levels, in the order in which they are declared.
        """
        bindings: list[Entity] = []
        for level in range(LEVELS):
            passed = f"{_PREFIX}{'.*' * level}"
            name = _level_name(level)
            bindings += [
                Binding(source=name, queue=name, routing_key=f"{passed}.1.#"),
                Binding(
                    source=name, exchange=_below(level), routing_key=f"{passed}.0.#"
                ),
            ]
        return [self.out, *self.exchanges, *self.queues, *bindings]

    def destination(self, exchange: str, routing_key: str) -> Binding:
        """
        The binding that leads messages to where they are to go: to an exchange, or,
        for the default exchange, to the queue that the routing key names.
        """
        key = f"#.{_word(exchange, routing_key)}"
        if exchange:
            return Binding(source=_OUT, exchange=exchange, routing_key=key)
        return Binding(source=_OUT, queue=routing_key, routing_key=key)

    def entry(self, delay: int) -> str:
        """
        The exchange to publish to: that of the highest level that the delay needs.

        :param delay: at least 1, as `delay_seconds` gives it.
        """
        return _level_name(delay.bit_length() - 1)

    def headers(
        self, headers: Mapping[str, Any], exchange: str, routing_key: str, delay: int
    ) -> dict[str, Any]:
        """
        A message's headers with its way in ``CC``, and without the broker's notes of
        earlier deaths.

        :raises TypeError: the message has a ``CC`` that is not a list.
        """
        bits = ".".join(str(delay >> level & 1) for level in range(LEVELS))
        key = f"{_PREFIX}.{bits}.{_word(exchange, routing_key)}"
        kept = {
            name: value for name, value in headers.items() if not _NOTES.fullmatch(name)
        }
        copies = kept.get("CC", ())
        if not isinstance(copies, list | tuple):
            raise TypeError(f"the header CC is a list of routing keys, not {copies!r}")
        # Of an earlier delay: a message that was delayed before keeps that key.
        others = [each for each in copies if not str(each).startswith(f"{_PREFIX}.")]
        kept["CC"] = [*others, key]
        return kept


def _level_name(level: int) -> str:
    return f"{_PREFIX}-{level:02}"


def _below(level: int) -> str:
    return _level_name(level - 1) if level else _OUT


def _word(exchange: str, routing_key: str) -> str:
    """
    A destination as one word of a routing key: without dots and wildcards.
    """
    kind, name = ("exchange", exchange) if exchange else ("queue", routing_key)
    word = re.sub(r"[.*#%]", lambda found: f"%{ord(found[0]):02X}", name)
    if len(word.encode()) > _LONGEST:
        word = hashlib.sha256(name.encode()).hexdigest()
    return f"{kind}:{word}"
