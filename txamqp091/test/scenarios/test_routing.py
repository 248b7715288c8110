# -*- test-case-name: txamqp091.test.scenarios.test_routing -*-
"""
Scenarios: which queues get a message.

How exchanges and bindings come and go is in
`txamqp091.test.scenarios.test_exchanges`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import InternalError, Returned
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


@every_peer
class HashScenarios(Scenario):
    """
    Exchanges that give each message to one of their destinations.
    """

    async def two_queues(
        self, channel: Channel, exchange: str, one: str = "1", other: str = "1"
    ) -> tuple[str, str]:
        """
        Two queues that are bound to an exchange, with a routing key each.
        """
        return (
            await self.bound(channel, exchange, one),
            await self.bound(channel, exchange, other),
        )

    async def shares(
        self,
        channel: Channel,
        exchange: str,
        queues: tuple[str, str],
        properties: Callable[[int], Properties] | None = None,
        key: str = "",
    ) -> list[int]:
        """
        Publish a hundred messages, and count how many each queue gets.

        :param key: the routing key of all of them; "" is one of its own for each.
        """
        for queue in queues:
            await channel.queue_purge(queue)
        published = [
            channel.basic_publish(
                exchange,
                key or f"key{number}",
                "x",
                properties(number) if properties else Properties(),
            )
            for number in range(100)
        ]
        for each in published:
            await each
        return [await self.count(channel, queue) for queue in queues]

    async def test_consistent_hash(self) -> None:
        """
        ``x-consistent-hash``: messages with one routing key go to one queue, and queues
        share the keys by weight.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "x-consistent-hash")
        queues = await self.two_queues(channel, exchange, "1", "9")
        light, heavy = await self.shares(channel, exchange, queues)
        self.assertEqual(light + heavy, 100)
        self.assertTrue(0 < light < 40, light)
        same = await self.shares(channel, exchange, queues, key="the same")
        self.assertEqual(sorted(same), [0, 100])

    async def test_consistent_hash_property(self) -> None:
        """
        A property counts instead of the routing key, if the exchange says so.
        """
        channel = await self.channel()
        for name, values in (
            ("message_id", [f"a{number}" for number in range(100)]),
            ("correlation_id", [f"a{number}" for number in range(100)]),
            ("timestamp", [datetime.fromtimestamp(each, UTC) for each in range(100)]),
        ):
            exchange = await self.exchange(
                channel, "x-consistent-hash", {"hash-property": name}
            )
            queues = await self.two_queues(channel, exchange, "5", "5")

            def properties(
                number: int, name: str = name, values: list[Any] = values
            ) -> Properties:
                return Properties(**{name: values[number]})

            found = await self.shares(channel, exchange, queues, properties, "same")
            self.assertEqual(sum(found), 100)
            self.assertGreater(min(found), 5)
            without = await self.shares(channel, exchange, queues)
            self.assertEqual(sorted(without), [0, 100])

    async def test_consistent_hash_header(self) -> None:
        """
        So does a header, of any type.
        """
        channel = await self.channel()
        exchange = await self.exchange(
            channel, "x-consistent-hash", {"hash-header": "h"}
        )
        queues = await self.two_queues(channel, exchange, "5", "5")
        kinds: tuple[type[str | int], ...] = (str, int)
        for make in kinds:

            def properties(number: int, make: type[str | int] = make) -> Properties:
                return Properties(headers={"h": make(number)})

            found = await self.shares(channel, exchange, queues, properties, "same")
            self.assertEqual(sum(found), 100)
            self.assertGreater(min(found), 5)
        without = await self.shares(channel, exchange, queues)
        self.assertEqual(sorted(without), [0, 100])

    async def test_consistent_hash_arguments(self) -> None:
        """
        406: to hash by both, or by another property.
        """
        both = {"hash-header": "h", "hash-property": "message_id"}
        for arguments, text in (
            (both, "hash-header and hash-property are mutually exclusive"),
            ({"hash-property": "reply_to"}, "Unsupported property: reply_to"),
        ):
            channel = await self.channel()
            call = channel.exchange_declare(
                self.name("exchange"), "x-consistent-hash", arguments=arguments
            )
            await self.channel_refused(channel, call, 406, "exchange.declare", text)

    async def test_consistent_hash_argument_type(self) -> None:
        """
        541: the name of a header is no text.
        """
        for name in ("hash-header", "hash-property"):
            channel = await self.channel()
            call = channel.exchange_declare(
                self.name("exchange"), "x-consistent-hash", arguments={name: 5}
            )
            with self.assertRaises(InternalError):
                await call

    async def test_consistent_hash_weight(self) -> None:
        """
        406: the routing key of a binding is a whole number, and greater than 0.
        """
        for key, text in (
            ("0", "The binding key must be greater than 0"),
            ("-1", "The binding key must be greater than 0"),
            ("x", 'The binding key must be an integer: <<"x">>'),
            ("1.5", 'The binding key must be an integer: <<"1.5">>'),
            (" 3", 'The binding key must be an integer: <<" 3">>'),
        ):
            channel = await self.channel()
            exchange = await self.exchange(channel, "x-consistent-hash")
            queue = await self.queue(channel)
            call = channel.queue_bind(queue, exchange, key)
            await self.channel_refused(channel, call, 406, "queue.bind", text)

    async def test_consistent_hash_bindings(self) -> None:
        """
        Of several bindings of a queue the first one counts, and when it is undone the
        queue gets nothing; without any binding a message is returned.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "x-consistent-hash")
        one, other = await self.two_queues(channel, exchange, "5", "5")
        await channel.queue_bind(one, exchange, "500")
        found = await self.shares(channel, exchange, (one, other))
        self.assertGreater(min(found), 5)
        await channel.queue_unbind(one, exchange, "5")
        self.assertEqual(await self.shares(channel, exchange, (one, other)), [0, 100])
        await channel.queue_unbind(other, exchange, "5")
        with self.assertRaises(Returned):
            await channel.basic_publish(exchange, "k", "x", mandatory=True)

    async def test_modulus_hash(self) -> None:
        """
        ``x-modulus-hash``, since 4.3: the routing key decides which queue gets a
        message, whatever the bindings say; a queue that is bound twice gets more.
        """
        channel = await self.channel()
        if self.by_version({"3.10": True, "4.3": False}):
            call = channel.exchange_declare(self.name("exchange"), "x-modulus-hash")
            await self.connection_refused(call, 503, "exchange.declare", "unknown")
            return
        exchange = await self.exchange(channel, "x-modulus-hash")
        queues = await self.two_queues(channel, exchange, "a", "b")
        found = await self.shares(channel, exchange, queues)
        self.assertEqual(sum(found), 100)
        self.assertGreater(min(found), 25)
        same = await self.shares(channel, exchange, queues, key="the same")
        self.assertEqual(sorted(same), [0, 100])
        for key in "cdefgh":
            await channel.queue_bind(queues[0], exchange, key)
        found = await self.shares(channel, exchange, queues)
        self.assertGreater(found[0], found[1])
        for queue in queues:
            await channel.queue_delete(queue)
        with self.assertRaises(Returned):
            await channel.basic_publish(exchange, "k", "x", mandatory=True)

    async def test_local_random(self) -> None:
        """
        ``x-local-random``, since 4.0: any of the bound queues gets a message.
        """
        channel = await self.channel()
        if self.by_version({"3.10": True, "4.0": False}):
            call = channel.exchange_declare(self.name("exchange"), "x-local-random")
            await self.connection_refused(call, 503, "exchange.declare", "unknown")
            return
        exchange = await self.exchange(channel, "x-local-random")
        queues = await self.two_queues(channel, exchange, "", "")
        found = await self.shares(channel, exchange, queues, key="the same")
        self.assertEqual(sum(found), 100)
        self.assertGreater(min(found), 10)
        await channel.queue_unbind(queues[0], exchange, "")
        self.assertEqual(await self.shares(channel, exchange, queues), [0, 100])
        await channel.queue_unbind(queues[1], exchange, "")
        with self.assertRaises(Returned):
            await channel.basic_publish(exchange, "k", "x", mandatory=True)

    async def test_local_random_bindings(self) -> None:
        """
        406: it binds classic queues, without a routing key.
        """
        if self.by_version({"3.10": True, "4.0": False}):
            return  # which has no such exchange
        channel = await self.channel()
        exchange = await self.exchange(channel, "x-local-random")
        queue = await self.queue(channel)
        call: Awaitable[object] = channel.queue_bind(queue, exchange, "key")
        text = "Non empty binding 'key' key not permitted"
        await self.channel_refused(channel, call, 406, "queue.bind", text)
        channel = await self.channel()
        call = channel.exchange_bind("amq.fanout", exchange)
        text = "Destination not found"
        await self.channel_refused(channel, call, 406, "exchange.bind", text)
        for kind in ("quorum", "stream"):
            channel = await self.channel()
            queue = await self.durable_queue(channel, {"x-queue-type": kind})
            call = channel.queue_bind(queue, exchange)
            text = f"Queue type rabbit_{kind}_queue not valid for this exchange type"
            await self.channel_refused(channel, call, 406, "queue.bind", text)
