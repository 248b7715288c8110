# -*- test-case-name: txamqp091.test.scenarios.test_routing -*-
"""
Scenarios: which queues get a message.

How exchanges and bindings come and go is in
`txamqp091.test.scenarios.test_exchanges`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import Returned
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.properties import Properties


class RoutingScenario(Scenario):
    """
    A scenario that looks at who gets what.
    """

    async def routes(
        self,
        channel: Channel,
        exchange: str,
        key: str,
        headers: Mapping[str, Any] | None = None,
    ) -> bool:
        """
        Whether a message finds a queue.
        """
        properties = Properties(headers=headers) if headers is not None else None
        try:
            await channel.basic_publish(exchange, key, "x", properties, True)
        except Returned as returned:
            self.assertEqual(returned.reply_code, 312)
            self.assertEqual(returned.reply_text, "NO_ROUTE")
            return False
        return True

    async def routed(self, channel: Channel, exchange: str, *keys: str) -> list[str]:
        """
        Those of the keys with which a message finds a queue.
        """
        return [key for key in keys if await self.routes(channel, exchange, key)]


@every_peer
class DefaultExchangeScenarios(RoutingScenario):
    """
    The default exchange routes to the queue that the routing key names.
    """

    async def test_by_name(self) -> None:
        """
        Every queue is bound to it by its name, and to nothing else.
        """
        channel = await self.channel()
        queue, other = await self.queue(channel), await self.queue(channel)
        await channel.basic_publish("", queue, "x")
        delivery = await self.get(channel, queue)
        self.assertEqual((delivery.exchange, delivery.routing_key), ("", queue))
        self.assertEqual(await self.bodies(channel, other), [])

    async def test_no_such_queue(self) -> None:
        """
        A key that names no queue routes nowhere.
        """
        channel = await self.channel()
        self.assertFalse(await self.routes(channel, "", self.name()))

    async def test_bind(self) -> None:
        """
        403: nothing is bound to it by hand.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.queue_bind(queue, "", "key")
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "queue.bind", text)

    async def test_unbind(self) -> None:
        """
        403: nor unbound.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.queue_unbind(queue, "", queue)
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "queue.unbind", text)

    async def test_bind_exchange(self) -> None:
        """
        403: nor is an exchange.
        """
        channel = await self.channel()
        call = channel.exchange_bind("amq.fanout", "", "key")
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "exchange.bind", text)

    async def test_bind_to_exchange(self) -> None:
        """
        403: and it is not bound to another one.
        """
        channel = await self.channel()
        call = channel.exchange_bind("", "amq.fanout", "key")
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "exchange.bind", text)


@every_peer
class DirectScenarios(RoutingScenario):
    """
    A direct exchange goes by the whole routing key.
    """

    async def test_keys(self) -> None:
        """
        The routing key has to be that of the binding.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.bound(channel, exchange, "a.b", "")
        keys = ("a.b", "", "a.c", "a.#", "A.B", "a.b.")
        self.assertEqual(await self.routed(channel, exchange, *keys), ["a.b", ""])
        self.assertEqual(len(await self.bodies(channel, queue)), 2)

    async def test_many_queues(self) -> None:
        """
        All queues that are bound with the key get a copy.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queues = [await self.bound(channel, exchange, "k") for _ in range(3)]
        queues.append(await self.bound(channel, exchange, "other"))
        await channel.basic_publish(exchange, "k", "x")
        found = [await self.bodies(channel, each) for each in queues]
        self.assertEqual(found, [[b"x"], [b"x"], [b"x"], []])

    async def test_two_bindings(self) -> None:
        """
        A queue that is bound twice gets one copy.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.bound(channel, exchange, "k", "k")
        await channel.queue_bind(queue, exchange, "k", {"other": 1})
        await channel.basic_publish(exchange, "k", "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_binding_arguments(self) -> None:
        """
        Bindings with other arguments are others: each is unbound for itself.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.bound(channel, exchange, "k")
        await channel.queue_bind(queue, exchange, "k", {"n": 1})
        await channel.queue_unbind(queue, exchange, "k")
        self.assertTrue(await self.routes(channel, exchange, "k"))
        await channel.queue_unbind(queue, exchange, "k", {"n": 1})
        self.assertFalse(await self.routes(channel, exchange, "k"))


@every_peer
class FanoutScenarios(RoutingScenario):
    """
    A fanout exchange does not look at the routing key.
    """

    async def test_keys(self) -> None:
        """
        Every queue gets everything, and the message keeps its key.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        queues = [await self.bound(channel, exchange, key) for key in ("", "k", "#")]
        await channel.basic_publish(exchange, "some.key", "x")
        for queue in queues:
            delivery = await self.get(channel, queue)
            self.assertEqual(
                (delivery.exchange, delivery.routing_key), (exchange, "some.key")
            )

    async def test_unbound(self) -> None:
        """
        A queue that is bound twice gets one copy, until both bindings have gone.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        queue = await self.bound(channel, exchange, "a", "b")
        await channel.basic_publish(exchange, "", "1")
        await channel.queue_unbind(queue, exchange, "a")
        await channel.basic_publish(exchange, "", "2")
        await channel.queue_unbind(queue, exchange, "b")
        self.assertFalse(await self.routes(channel, exchange, ""))
        self.assertEqual(await self.bodies(channel, queue), [b"1", b"2"])


@every_peer
class ChainScenarios(RoutingScenario):
    """
    Exchanges pass messages on to exchanges.
    """

    async def test_chain(self) -> None:
        """
        A message goes along bindings between exchanges, by the rules of each, and still
        says where it was published to.
        """
        channel = await self.channel()
        first = await self.exchange(channel, "topic")
        second = await self.exchange(channel, "direct")
        await channel.exchange_bind(second, first, "a.*")
        queue = await self.bound(channel, second, "a.b")
        found = await self.routed(channel, first, "a.b", "a.c", "b")
        self.assertEqual(found, ["a.b"])
        delivery = await self.get(channel, queue)
        self.assertEqual((delivery.exchange, delivery.routing_key), (first, "a.b"))

    async def test_unbind(self) -> None:
        """
        Until the binding is undone.
        """
        channel = await self.channel()
        first = await self.exchange(channel, "fanout")
        second = await self.exchange(channel, "fanout")
        await channel.exchange_bind(second, first)
        await self.bound(channel, second)
        self.assertTrue(await self.routes(channel, first, ""))
        await channel.exchange_unbind(second, first)
        self.assertFalse(await self.routes(channel, first, ""))

    async def test_circle(self) -> None:
        """
        In a circle of exchanges each gets the message once, and so does each queue.
        """
        channel = await self.channel()
        names = [await self.exchange(channel, "fanout") for _ in range(3)]
        for source, destination in zip(names, names[1:] + names[:1], strict=True):
            await channel.exchange_bind(destination, source)
        queue = await self.queue(channel)
        for each in names:
            await channel.queue_bind(queue, each)
        await channel.basic_publish(names[1], "", "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_two_ways(self) -> None:
        """
        A queue that a message reaches by two ways gets one copy.
        """
        channel = await self.channel()
        first = await self.exchange(channel, "fanout")
        ways = [await self.exchange(channel, "fanout") for _ in range(2)]
        queue = await self.queue(channel)
        for each in ways:
            await channel.exchange_bind(each, first)
            await channel.queue_bind(queue, each)
        await channel.basic_publish(first, "", "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_internal(self) -> None:
        """
        403: only exchanges publish to an internal exchange.
        """
        channel = await self.channel()
        inner = await self.exchange(channel, "fanout", internal=True)
        outer = await self.exchange(channel, "fanout")
        await channel.exchange_bind(inner, outer)
        await self.bound(channel, inner)
        self.assertTrue(await self.routes(channel, outer, ""))
        call = channel.basic_publish(inner, "", "x")
        text = f"cannot publish to internal exchange '{inner}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 403, "basic.publish", text)


@every_peer
class AlternateScenarios(RoutingScenario):
    """
    An alternate exchange gets what an exchange has nobody for.
    """

    async def test_unroutable(self) -> None:
        """
        It gets those messages, which are as they were and do not come back, and no
        others.
        """
        channel = await self.channel()
        spare = await self.exchange(channel, "fanout")
        exchange = await self.exchange(channel, "direct", {"alternate-exchange": spare})
        rest = await self.bound(channel, spare)
        queue = await self.bound(channel, exchange, "known")
        self.assertTrue(await self.routes(channel, exchange, "known"))
        self.assertTrue(await self.routes(channel, exchange, "unknown"))
        delivery = await self.get(channel, rest)
        self.assertEqual(
            (delivery.exchange, delivery.routing_key), (exchange, "unknown")
        )
        self.assertEqual(await self.bodies(channel, rest), [])
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_returned(self) -> None:
        """
        If it has nobody either, a mandatory message comes back.
        """
        channel = await self.channel()
        spare = await self.exchange(channel, "fanout")
        exchange = await self.exchange(channel, "direct", {"alternate-exchange": spare})
        self.assertFalse(await self.routes(channel, exchange, "unknown"))

    async def test_missing(self) -> None:
        """
        One that does not exist is no obstacle.
        """
        channel = await self.channel()
        exchange = await self.exchange(
            channel, "direct", {"alternate-exchange": self.name("missing")}
        )
        self.assertFalse(await self.routes(channel, exchange, "unknown"))

    async def test_circle(self) -> None:
        """
        Exchanges that are alternates of each other do not go on for ever.
        """
        channel = await self.channel()
        one, other = self.name("exchange"), self.name("exchange")
        await channel.exchange_declare(one, arguments={"alternate-exchange": other})
        await channel.exchange_declare(other, arguments={"alternate-exchange": one})
        self.assertFalse(await self.routes(channel, one, "unknown"))

    async def test_chain(self) -> None:
        """
        An alternate exchange may have one of its own.
        """
        channel = await self.channel()
        last = await self.exchange(channel, "fanout")
        middle = await self.exchange(channel, "direct", {"alternate-exchange": last})
        first = await self.exchange(channel, "direct", {"alternate-exchange": middle})
        queue = await self.bound(channel, last)
        self.assertTrue(await self.routes(channel, first, "unknown"))
        self.assertEqual(await self.bodies(channel, queue), [b"x"])


@every_peer
class CopyScenarios(RoutingScenario):
    """
    The headers ``CC`` and ``BCC`` name more routing keys.
    """

    async def test_cc(self) -> None:
        """
        Queues of all keys get the message, which still has the header, and the key that
        it was published with.
        """
        channel = await self.channel()
        one, two, three = [await self.queue(channel) for _ in range(3)]
        properties = Properties(headers={"CC": [two, three], "other": 1})
        await channel.basic_publish("", one, "x", properties)
        for queue in (one, two, three):
            delivery = await self.get(channel, queue)
            self.assertEqual(delivery.routing_key, one)
            self.assertEqual(dict(delivery.headers), {"CC": [two, three], "other": 1})

    async def test_bcc(self) -> None:
        """
        ``BCC`` does the same, and is removed.
        """
        channel = await self.channel()
        one, two, three = [await self.queue(channel) for _ in range(3)]
        properties = Properties(headers={"CC": [two], "BCC": [three]})
        await channel.basic_publish("", one, "x", properties)
        for queue in (one, two, three):
            delivery = await self.get(channel, queue)
            self.assertEqual(dict(delivery.headers), {"CC": [two]})

    async def test_one_copy(self) -> None:
        """
        A queue that is named several times gets one copy.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        properties = Properties(headers={"CC": [queue, queue], "BCC": [queue]})
        await channel.basic_publish("", queue, "x", properties)
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_topic(self) -> None:
        """
        They are routing keys for any exchange.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        queue = await self.bound(channel, exchange, "a.#")
        headers = {"CC": ["a.b"]}
        self.assertTrue(await self.routes(channel, exchange, "unknown", headers))
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_mandatory(self) -> None:
        """
        A message that only a copy of finds a queue does not come back.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        headers = {"BCC": [queue]}
        self.assertTrue(await self.routes(channel, "", self.name(), headers))
        headers = {"BCC": [self.name()]}
        self.assertFalse(await self.routes(channel, "", self.name(), headers))

    async def test_not_a_list(self) -> None:
        """
        406: they are lists.
        """
        for name in ("CC", "BCC"):
            channel = await self.channel()
            queue = await self.queue(channel)
            properties = Properties(headers={name: queue})
            call = channel.basic_publish("", queue, "x", properties)
            text = f'unacceptable_type_in_header,"{name}",longstr'
            await self.channel_refused(channel, call, 406, "basic.publish", text)
