# -*- test-case-name: txamqp091.test.unit.testing.test_exchanges -*-
"""
Tests for `txamqp091.testing._broker.exchanges`: what scenarios cannot show.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.testing._broker.exchanges import Exchange
from txamqp091.testing._broker.messages import Message
from txamqp091.wire.properties import EMPTY


def fits(pattern: list[str], words: list[str]) -> bool:
    """
    Whether a routing key fits a pattern, as plainly as it can be said.
    """
    if not pattern:
        return not words
    if pattern[0] == "#":
        return fits(pattern[1:], words) or bool(words and fits(pattern, words[1:]))
    if not words or pattern[0] not in ("*", words[0]):
        return False
    return fits(pattern[1:], words[1:])


WORDS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)


class TopicProperties(SynchronousTestCase):
    """
    The tree of patterns against the plain definition.
    """

    @given(st.lists(PATTERNS, min_size=1, max_size=6), WORDS)
    def test_plain_definition(
        self, patterns: list[list[str]], words: list[str]
    ) -> None:
        """
        A message goes to those whose patterns fit, and to nobody else; undone bindings
        leave nothing.
        """
        exchange = Exchange("x", "topic")
        others = [Exchange(f"y{number}") for number in range(len(patterns))]
        for other, pattern in zip(others, patterns, strict=True):
            exchange.bind(other, ".".join(pattern), {})
        key = ".".join(words)
        split = key.split(".") if key else []
        message = Message("x", (key,), EMPTY, b"")
        found = exchange.find(message, {})
        expected = {
            other.name
            for other, pattern in zip(others, patterns, strict=True)
            if fits(pattern, split)
        }
        self.assertEqual({each.name for each in found}, expected)
        for other, pattern in zip(others, patterns, strict=True):
            self.assertTrue(exchange.unbind(other, ".".join(pattern), {}))
        self.assertEqual(list(exchange.find(message, {})), [])
        self.assertFalse(exchange.in_use)


class HashTests(SynchronousTestCase):
    """
    Exchanges that choose one destination by a hash.
    """

    def routed(self, exchange: Exchange, count: int) -> list[str]:
        """
        The destinations of messages with different routing keys.
        """
        return [
            found.name
            for number in range(count)
            for found in exchange.find(Message("x", (f"k{number}",), EMPTY, b""), {})
        ]

    def test_weights(self) -> None:
        """
        Destinations get as many keys as their weights say, however large these are.
        """
        exchange = Exchange("x", "x-consistent-hash")
        exchange.bind(Exchange("light"), "1" + "0" * 100, {})
        exchange.bind(Exchange("heavy"), "3" + "0" * 100, {})
        names = self.routed(exchange, 1000)
        self.assertEqual(len(names), 1000)
        self.assertTrue(200 < names.count("light") < 300, names.count("light"))

    def test_consistent(self) -> None:
        """
        When a destination is added, keys move to it alone, and few of them.
        """
        exchange = Exchange("x", "x-consistent-hash")
        for number in range(4):
            exchange.bind(Exchange(f"y{number}"), "10", {})
        before = self.routed(exchange, 1000)
        exchange.bind(Exchange("new"), "10", {})
        after = self.routed(exchange, 1000)
        moved = [new for old, new in zip(before, after, strict=True) if old != new]
        self.assertEqual(set(moved), {"new"})
        self.assertTrue(150 < len(moved) < 250, len(moved))
