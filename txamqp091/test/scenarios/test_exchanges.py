# -*- test-case-name: txamqp091.test.scenarios.test_exchanges -*-
"""
Scenarios: how exchanges, and bindings, come and go.

Where messages go from them is in `txamqp091.test.scenarios.test_routing`.
"""

from __future__ import annotations

from typing import Any

from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec


@every_peer
class ExchangeDeclareScenarios(Scenario):
    """
    Declaring exchanges.
    """

    async def test_again(self) -> None:
        """
        An exchange that exists as described may be declared again, by anybody.
        """
        channel = await self.channel()
        exchange = self.name("exchange")
        for _ in range(2):
            self.assertEqual(
                await channel.exchange_declare(exchange, "topic"),
                spec.ExchangeDeclareOk(),
            )
        other = await (await self.connect()).open_channel()
        await other.exchange_declare(exchange, "topic")

    async def differs(self, text: str, **different: Any) -> None:
        """
        See an exchange refused that exists, and differs.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        call = channel.exchange_declare(exchange, **different)
        await self.channel_refused(
            channel,
            call,
            406,
            "exchange.declare",
            f"{text} for exchange '{exchange}' in vhost '{self.vhost}'",
        )

    async def test_type_differs(self) -> None:
        """
        406: the type differs.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        call = channel.exchange_declare(exchange, "fanout")
        text = (
            f"inequivalent arg 'type' for exchange '{exchange}' in vhost "
            f"'{self.vhost}': received 'fanout' but current is 'direct'"
        )
        await self.channel_refused(channel, call, 406, "exchange.declare", text)

    async def test_durable_differs(self) -> None:
        """
        406: it is durable, and was not to be.
        """
        await self.differs("inequivalent arg 'durable'", durable=False)

    async def test_auto_delete_differs(self) -> None:
        """
        406: it does not delete itself, and was to.
        """
        await self.differs("inequivalent arg 'auto_delete'", auto_delete=True)

    async def test_internal_differs(self) -> None:
        """
        406: it is not internal, and was to be.
        """
        await self.differs("inequivalent arg 'internal'", internal=True)

    async def test_alternate_differs(self) -> None:
        """
        406: it has no alternate exchange, and was to have one.
        """
        arguments = {"alternate-exchange": "other"}
        await self.differs("inequivalent arg 'alternate-exchange'", arguments=arguments)

    async def test_unknown_arguments(self) -> None:
        """
        Arguments that no broker knows are not compared.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, arguments={"custom": 1})
        await channel.exchange_declare(exchange, arguments={"custom": 2})

    async def test_unknown_type(self) -> None:
        """
        There is no such type: 3.10 closes the connection (503), 4.3 the channel (406).
        """
        channel = await self.channel()
        call = channel.exchange_declare(self.name("exchange"), "no-such-type")
        if self.by_version({"3.10": True, "4.3": False}):
            await self.connection_refused(
                call, 503, "exchange.declare", "unknown exchange type 'no-such-type'"
            )
        else:
            await self.channel_refused(
                channel, call, 406, "exchange.declare", "unknown exchange type"
            )

    async def test_reserved_name(self) -> None:
        """
        403: names that begin with ``amq.`` are the broker's.
        """
        channel = await self.channel()
        name = f"amq.{self.name('exchange')}"
        call = channel.exchange_declare(name)
        text = f"exchange name '{name}' contains reserved prefix 'amq.*'"
        await self.channel_refused(channel, call, 403, "exchange.declare", text)

    async def test_default(self) -> None:
        """
        403: the default exchange cannot be declared.
        """
        channel = await self.channel()
        call = channel.exchange_declare("")
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "exchange.declare", text)

    async def test_predeclared(self) -> None:
        """
        Every virtual host has an exchange of each type.
        """
        channel = await self.channel()
        for name, kind in (
            ("amq.direct", "direct"),
            ("amq.fanout", "fanout"),
            ("amq.topic", "topic"),
            ("amq.headers", "headers"),
            ("amq.match", "headers"),
        ):
            await channel.exchange_declare(name, kind)
            await channel.exchange_declare(name, passive=True)

    async def test_trace(self) -> None:
        """
        The exchange for traced messages can be bound, and not be published to.
        """
        channel, name = await self.channel(), "amq.rabbitmq.trace"
        await channel.exchange_declare(name, "topic", internal=True)
        await self.bound(channel, name, "#")
        call = channel.basic_publish(name, "k", "x")
        text = f"cannot publish to internal exchange '{name}'"
        await self.channel_refused(channel, call, 403, "basic.publish", text)

    async def test_passive(self) -> None:
        """
        A passive declaration does not look at anything but the name.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        await channel.exchange_declare(exchange, "fanout", True, False, True, True)

    async def test_passive_missing(self) -> None:
        """
        404: there is no such exchange to ask for.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.exchange_declare(name, passive=True)
        text = f"NOT_FOUND - no exchange '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "exchange.declare", text)

    async def test_no_wait(self) -> None:
        """
        An exchange can be declared, bound and deleted without answers.
        """
        channel = await self.channel()
        exchange, queue = self.name("exchange"), self.name()
        await channel.exchange_declare(exchange, no_wait=True)
        await channel.queue_declare(queue, exclusive=True, no_wait=True)
        await channel.queue_bind(queue, exchange, "k", no_wait=True)
        await channel.basic_publish(exchange, "k", "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])
        await channel.exchange_delete(exchange, no_wait=True)
        call = channel.exchange_declare(exchange, passive=True)
        await self.channel_refused(channel, call, 404, "exchange.declare", exchange)

    async def test_alternate_type(self) -> None:
        """
        406: the name of an alternate exchange is text.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.exchange_declare(name, arguments={"alternate-exchange": 7})
        text = "invalid type 'signedint' for arg 'alternate-exchange' in exchange"
        await self.channel_refused(channel, call, 406, "exchange.declare", text)


@every_peer
class ExchangeDeleteScenarios(Scenario):
    """
    Deleting exchanges.
    """

    async def test_missing(self) -> None:
        """
        There is no harm in deleting what does not exist.
        """
        channel = await self.channel()
        self.assertEqual(
            await channel.exchange_delete(self.name("exchange")),
            spec.ExchangeDeleteOk(),
        )

    async def test_bindings(self) -> None:
        """
        With an exchange go its bindings: made again, it has none.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        queue = await self.bound(channel, exchange)
        await channel.exchange_delete(exchange)
        await channel.exchange_declare(exchange, "fanout")
        await channel.basic_publish(exchange, "", "x")
        self.assertEqual(await self.bodies(channel, queue), [])

    async def test_destination(self) -> None:
        """
        So do the bindings to it.
        """
        channel = await self.channel()
        source = await self.exchange(channel, "fanout")
        exchange = await self.exchange(channel, "fanout")
        await channel.exchange_bind(exchange, source)
        await channel.exchange_delete(exchange)
        await channel.exchange_delete(source, if_unused=True)

    async def test_if_unused(self) -> None:
        """
        406: an exchange to which a queue is bound is in use; one without is deleted.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        queue = await self.bound(channel, exchange)
        call = channel.exchange_delete(exchange, if_unused=True)
        text = f"exchange '{exchange}' in vhost '{self.vhost}' in use"
        await self.channel_refused(channel, call, 406, "exchange.delete", text)
        channel = await self.channel()
        await channel.queue_delete(queue)
        await channel.exchange_delete(exchange, if_unused=True)
        asked = channel.exchange_declare(exchange, passive=True)
        await self.channel_refused(channel, asked, 404, "exchange.declare", exchange)

    async def test_if_unused_source(self) -> None:
        """
        406: so is one to which an exchange is bound; to be bound to another one is not
        to be in use.
        """
        channel = await self.channel()
        source, exchange = await self.exchange(channel), await self.exchange(channel)
        await channel.exchange_bind(exchange, source)
        call = channel.exchange_delete(source, if_unused=True)
        await self.channel_refused(channel, call, 406, "exchange.delete", "in use")
        channel = await self.channel()
        await channel.exchange_delete(exchange, if_unused=True)

    async def test_reserved(self) -> None:
        """
        403: the broker's own stay.
        """
        channel = await self.channel()
        call = channel.exchange_delete("amq.direct")
        text = (
            f"deletion of system exchange 'amq.direct' in vhost '{self.vhost}' "
            "not allowed"
        )
        await self.channel_refused(channel, call, 403, "exchange.delete", text)

    async def test_default(self) -> None:
        """
        403: so does the default exchange.
        """
        channel = await self.channel()
        call = channel.exchange_delete("")
        text = "operation not permitted on the default exchange"
        await self.channel_refused(channel, call, 403, "exchange.delete", text)

    async def test_auto_delete(self) -> None:
        """
        An exchange that deletes itself goes with its last binding, not before it had
        any.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct", auto_delete=True)
        queue = await self.bound(channel, exchange, "a", "b")
        await channel.queue_unbind(queue, exchange, "a")
        await channel.exchange_declare(exchange, passive=True)
        await channel.queue_unbind(queue, exchange, "b")
        call = channel.exchange_declare(exchange, passive=True)
        await self.channel_refused(channel, call, 404, "exchange.declare", exchange)

    async def test_auto_delete_with_queue(self) -> None:
        """
        That is also when the queue is deleted that was bound to it.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct", auto_delete=True)
        queue = await self.bound(channel, exchange, "a")
        await channel.queue_delete(queue)
        call = channel.exchange_declare(exchange, passive=True)
        await self.channel_refused(channel, call, 404, "exchange.declare", exchange)

    async def test_auto_delete_chain(self) -> None:
        """
        And the next one goes that loses its last binding by that.
        """
        channel = await self.channel()
        first = await self.exchange(channel, "fanout", auto_delete=True)
        second = await self.exchange(channel, "fanout", auto_delete=True)
        await channel.exchange_bind(second, first)
        queue = await self.bound(channel, second)
        await channel.queue_unbind(queue, second)
        for exchange in (second, first):
            call = channel.exchange_declare(exchange, passive=True)
            await self.channel_refused(channel, call, 404, "exchange.declare", exchange)
            channel = await self.channel()


@every_peer
class BindScenarios(Scenario):
    """
    Binding and unbinding.
    """

    async def test_no_queue(self) -> None:
        """
        404: there is no such queue to bind.
        """
        channel = await self.channel()
        name = self.name()
        call = channel.queue_bind(name, "amq.direct", "k")
        text = f"no queue '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "queue.bind", text)

    async def test_no_exchange(self) -> None:
        """
        404: there is no such exchange to bind to.
        """
        channel = await self.channel()
        queue, name = await self.queue(channel), self.name("exchange")
        call = channel.queue_bind(queue, name, "k")
        text = f"no exchange '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "queue.bind", text)

    async def test_no_source(self) -> None:
        """
        404: there is no such exchange to get messages from.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.exchange_bind("amq.fanout", name)
        text = f"no exchange '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "exchange.bind", text)

    async def test_no_destination(self) -> None:
        """
        404: there is no such exchange to pass messages on to.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.exchange_bind(name, "amq.fanout")
        text = f"no exchange '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "exchange.bind", text)

    async def test_again(self) -> None:
        """
        The same binding can be made again, and is undone at once.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        queue = await self.bound(channel, exchange, "k")
        self.assertEqual(
            await channel.queue_bind(queue, exchange, "k"), spec.QueueBindOk()
        )
        await channel.queue_unbind(queue, exchange, "k")
        await channel.exchange_delete(exchange, if_unused=True)

    async def test_unbind_missing(self) -> None:
        """
        There is no harm in undoing a binding that is not there, also where there is no
        queue and no exchange.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        self.assertEqual(
            await channel.queue_unbind(queue, "amq.direct", "k"), spec.QueueUnbindOk()
        )
        await channel.queue_unbind(self.name(), "amq.direct", "k")
        await channel.queue_unbind(queue, self.name("exchange"), "k")
        await channel.exchange_unbind(self.name("exchange"), "amq.direct", "k")

    async def test_last_queue(self) -> None:
        """
        The empty name is the queue that was declared last on the channel; and an empty
        routing key is then its name.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        await self.queue(channel)
        queue = await self.queue(channel)
        await channel.queue_bind("", exchange, "")
        await channel.basic_publish(exchange, queue, "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_no_last_queue(self) -> None:
        """
        404: no queue was declared yet.
        """
        channel = await self.channel()
        call = channel.queue_bind("", "amq.direct", "k")
        text = "no previously declared queue"
        await self.channel_refused(channel, call, 404, "queue.bind", text)

    async def test_publish_to_missing(self) -> None:
        """
        404: there is no such exchange to publish to.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.basic_publish(name, "k", "x")
        text = f"NOT_FOUND - no exchange '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "basic.publish", text)
