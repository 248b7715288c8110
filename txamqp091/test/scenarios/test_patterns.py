# -*- test-case-name: txamqp091.test.scenarios.test_patterns -*-
"""
Scenarios: exchanges that go by patterns of words, or by headers.

The others are in `txamqp091.test.scenarios.test_routing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txamqp091.test.scenarios.test_routing import RoutingScenario
from txamqp091.test.support.scenarios import every_peer


@every_peer
class TopicScenarios(RoutingScenario):
    """
    A topic exchange goes by patterns of words.
    """

    async def matches(self, pattern: str, *keys: str) -> list[str]:
        """
        Those of the keys that a pattern lets through.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        await self.bound(channel, exchange, pattern)
        return await self.routed(channel, exchange, *keys)

    async def test_words(self) -> None:
        """
        A pattern without wildcards is the key itself.
        """
        found = await self.matches("a.b", "a.b", "a", "a.b.c", "a.", "a.B")
        self.assertEqual(found, ["a.b"])

    async def test_star(self) -> None:
        """
        ``*`` stands for exactly one word, which may be empty.
        """
        keys = ("a.b.c", "a..c", "a.c", "a.b.b.c", "a.b.d", "a.*.c", "a.#.c")
        found = await self.matches("a.*.c", *keys)
        self.assertEqual(found, ["a.b.c", "a..c", "a.*.c", "a.#.c"])

    async def test_star_alone(self) -> None:
        """
        ``*`` alone wants a word, and the empty key has none.
        """
        found = await self.matches("*", "a", "", "a.b", ".")
        self.assertEqual(found, ["a"])

    async def test_hash(self) -> None:
        """
        ``#`` at the end stands for any number of words, none included.
        """
        found = await self.matches("a.#", "a", "a.b", "a.b.c", "a.", "b.a", "")
        self.assertEqual(found, ["a", "a.b", "a.b.c", "a."])

    async def test_hash_in_front(self) -> None:
        """
        So it does at the beginning.
        """
        found = await self.matches("#.z", "z", "y.z", "x.y.z", "z.z", "z.y", "")
        self.assertEqual(found, ["z", "y.z", "x.y.z", "z.z"])

    async def test_hash_within(self) -> None:
        """
        And in the middle.
        """
        found = await self.matches("a.#.z", "a.z", "a.b.z", "a.b.c.z", "a", "z", "az")
        self.assertEqual(found, ["a.z", "a.b.z", "a.b.c.z"])

    async def test_hash_alone(self) -> None:
        """
        ``#`` alone takes everything.
        """
        keys = ("", "a", "a.b", "..", "#")
        self.assertEqual(await self.matches("#", *keys), list(keys))

    async def test_many_hashes(self) -> None:
        """
        Wildcards can be combined.
        """
        found = await self.matches(
            "#.b.#.*", "b", "b.x", "a.b.x", "a.b.c.x", "b.b", "x.y", "a.b"
        )
        self.assertEqual(found, ["b.x", "a.b.x", "a.b.c.x", "b.b"])

    async def test_part_of_a_word(self) -> None:
        """
        A wildcard is a whole word; in a word it is itself.
        """
        found = await self.matches("a*.b#", "a*.b#", "ab.bc", "a.b")
        self.assertEqual(found, ["a*.b#"])

    async def test_empty_pattern(self) -> None:
        """
        The empty pattern takes the empty key.
        """
        self.assertEqual(await self.matches("", "", "a", "."), [""])

    async def test_one_copy(self) -> None:
        """
        A queue whose bindings overlap gets one copy, and keeps the rest when one of
        them goes.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        queue = await self.bound(channel, exchange, "#", "a.*", "*.b", "a.b")
        await channel.basic_publish(exchange, "a.b", "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])
        await channel.queue_unbind(queue, exchange, "#")
        await channel.queue_unbind(queue, exchange, "a.b")
        found = await self.routed(channel, exchange, "a.b", "a.c", "c.b", "c.c")
        self.assertEqual(found, ["a.b", "a.c", "c.b"])


@every_peer
class HeadersScenarios(RoutingScenario):
    """
    A headers exchange compares the headers of the message with the binding's arguments.
    """

    async def match(
        self, arguments: Mapping[str, Any], *headers: Mapping[str, Any] | None
    ) -> list[bool]:
        """
        Which headers a binding lets through.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "headers")
        await self.bound(channel, exchange, arguments=arguments)
        return [await self.routes(channel, exchange, "", each) for each in headers]

    async def test_all(self) -> None:
        """
        With ``all`` every header has to be there, with its value; more do no harm.
        """
        found = await self.match(
            {"x-match": "all", "a": 1, "b": "two"},
            {"a": 1, "b": "two"},
            {"a": 1, "b": "two", "c": 3},
            {"a": 1},
            {"a": 1, "b": "three"},
            {},
            None,
        )
        self.assertEqual(found, [True, True, False, False, False, False])

    async def test_any(self) -> None:
        """
        With ``any`` one is enough.
        """
        found = await self.match(
            {"x-match": "any", "a": 1, "b": "two"},
            {"a": 1, "b": "two"},
            {"a": 1},
            {"b": "two", "a": 7},
            {"b": "three"},
            {},
            None,
        )
        self.assertEqual(found, [True, True, True, False, False, False])

    async def test_default(self) -> None:
        """
        Without ``x-match`` it is ``all``.
        """
        found = await self.match({"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1})
        self.assertEqual(found, [True, False])

    async def test_x_headers_ignored(self) -> None:
        """
        ``all`` and ``any`` leave out headers whose names begin with ``x-``.
        """
        found = await self.match({"x-match": "all", "a": 1, "x-b": 2}, {"a": 1})
        self.assertEqual(found, [True])
        found = await self.match({"x-match": "any", "a": 1, "x-b": 2}, {"x-b": 2})
        self.assertEqual(found, [False])

    async def test_all_with_x(self) -> None:
        """
        ``all-with-x`` does not.
        """
        found = await self.match(
            {"x-match": "all-with-x", "a": 1, "x-b": 2},
            {"a": 1},
            {"a": 1, "x-b": 2},
        )
        self.assertEqual(found, [False, True])

    async def test_any_with_x(self) -> None:
        """
        Nor does ``any-with-x``.
        """
        found = await self.match(
            {"x-match": "any-with-x", "a": 1, "x-b": 2}, {"x-b": 2}, {"x-b": 3}
        )
        self.assertEqual(found, [True, False])

    async def test_presence(self) -> None:
        """
        A header without a value in the binding only has to be there.
        """
        found = await self.match(
            {"x-match": "all", "a": None}, {"a": 1}, {"a": None}, {"b": 1}
        )
        self.assertEqual(found, [True, True, False])

    async def test_nothing(self) -> None:
        """
        ``all`` of no headers is true of every message, ``any`` of none.
        """
        self.assertEqual(
            await self.match({"x-match": "all"}, {"a": 1}, None), [True, True]
        )
        self.assertEqual(
            await self.match({"x-match": "any"}, {"a": 1}, None), [False, False]
        )

    async def test_types(self) -> None:
        """
        A value of another type is another value.
        """
        found = await self.match({"a": 1}, {"a": 1}, {"a": "1"}, {"a": True})
        self.assertEqual(found, [True, False, False])

    async def test_routing_key(self) -> None:
        """
        The routing key does not matter.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "headers")
        await self.bound(channel, exchange, "key", arguments={"a": 1})
        self.assertTrue(await self.routes(channel, exchange, "other", {"a": 1}))

    async def test_unknown_match(self) -> None:
        """
        406: ``x-match`` is one of four.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "headers")
        queue = await self.queue(channel)
        call = channel.queue_bind(queue, exchange, "", {"x-match": "some"})
        text = 'Invalid x-match field value <<"some">>; expected all'
        await self.channel_refused(channel, call, 406, "queue.bind", text)

    async def test_match_type(self) -> None:
        """
        406: and it is text.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "headers")
        queue = await self.queue(channel)
        call = channel.queue_bind(queue, exchange, "", {"x-match": True})
        text = "Invalid x-match field type bool (value true); expected longstr"
        await self.channel_refused(channel, call, 406, "queue.bind", text)
