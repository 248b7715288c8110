# -*- test-case-name: txamqp091.test -*-
"""
What keeps the in-memory broker honest: what a scenario may use.

A scenario is written once, and says what every broker does, RabbitMQ as well as ours::

    @every_peer
    class QueueScenarios(Scenario):
        async def test_declare(self) -> None:
            channel = await self.channel()

This makes ``QueueScenarios_3_10_8`` and ``QueueScenarios_4_3_6``, as
`txamqp091.test.support.integration.every_broker` does, and
``QueueScenarios_memory_3_10`` and ``QueueScenarios_memory_4_3``, which ask the
in-memory broker, told to be like the one and like the other.  Where versions differ,
the scenario has a table: see `Scenario.by_version`.  Where the in-memory broker differs
and shall, `txamqp091.test.support.differences` says so, and why.

The scenarios themselves are in ``test_scenarios_*.py``, by subject.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from txamqp091.channel import Channel
from txamqp091.consumer import Deliveries
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    ChannelClosed,
    Closed,
    ConnectionClosed,
    ConsumerCancelled,
)
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.differences import DIFFERENCES, Difference
from txamqp091.test.support.peers import Kind, kinds
from txamqp091.test.support.raw_client import RawClient, handshake
from txamqp091.wire import spec
from txamqp091.wire.method import Method

__all__ = ["Scenario", "every_peer"]

T = TypeVar("T")

#: How long to wait for what a broker counts, and tells nobody: seconds.
PATIENCE = 60.0

_numbers = itertools.count(1)


def every_peer(scenario: type[Scenario]) -> None:
    """
    Make one test case of a scenario for each broker.

    The scenario's own name is left without a class, so that nobody collects it.
    """
    module = sys.modules[scenario.__module__]
    for kind in kinds():
        name = f"{scenario.__name__}_{kind.name.replace('.', '_')}"
        members: dict[str, object] = {
            "__doc__": scenario.__doc__,
            "__module__": scenario.__module__,
            "__qualname__": name,
            "kind": kind,
        }
        for difference in DIFFERENCES:
            owner, _, test = difference.scenario.partition(".")
            if owner == scenario.__name__ and kind.memory in difference.versions:
                members[test] = _failing(getattr(scenario, test), difference)
        setattr(module, name, type(name, (scenario,), members))


def _failing(
    test: Callable[[Any], Awaitable[None]], difference: Difference
) -> Callable[[Any], Awaitable[None]]:
    """
    A test that passes if another one fails.
    """

    async def fails(self: Scenario) -> None:
        try:
            await test(self)
        except (AssertionError, Closed):
            return
        self.fail(f"it is no longer so that: {difference.memory}")

    fails.__doc__ = test.__doc__
    fails.__name__ = test.__name__
    return fails


class Scenario(TestCase):
    """
    What a scenario inherits.

    :ivar peer: the broker.
    :ivar vhost: a virtual host that only the tests of this class use.
    """

    timeout = 180.0

    kind: ClassVar[Kind]

    def setUp(self) -> None:
        """
        Have the broker running, and a virtual host in it.
        """
        self.peer = self.kind.start()
        self.addCleanup(self.peer.stop)
        self.vhost = type(self).__name__
        self.peer.add_vhost(self.vhost)
        self._connection: AMQPProtocol | None = None

    def by_version(self, table: Mapping[str, T]) -> T:
        """
        What this broker is to do, where versions differ.

        :param table: what they do, by the version from which on they do it; the oldest
            comes first.
        """
        found = next(iter(table.values()))
        for version, value in table.items():
            if tuple(map(int, version.split("."))) <= self.peer.version:
                found = value
        return found

    # -- names, connections and channels -----------------------------------------------

    def name(self, kind: str = "queue") -> str:
        """
        A name that nothing else has.
        """
        return f"{kind}-{next(_numbers)}"

    async def connect(
        self, user: str = "guest", password: str = "guest", **changes: Any
    ) -> AMQPProtocol:
        """
        Connect, and close the connection when the test ends.

        :param changes: what is to be different in the `ConnectionParameters`.
        """
        parameters = ConnectionParameters(
            virtual_host=self.vhost, credentials=[PlainCredentials(user, password)]
        )
        connection = await self.peer.connect(replace(parameters, **changes))
        self.addCleanup(connection.close)
        return connection

    async def channel(self, confirms: bool = True) -> Channel:
        """
        Open a channel on the connection of this test.

        :param confirms: in confirm mode, so that to await a publish is to know that
            the message is where it belongs.
        """
        if self._connection is None or not self._connection.is_open:
            self._connection = await self.connect()
        channel = await self._connection.open_channel()
        if confirms:
            await channel.confirm_select()
        return channel

    async def raw(self, capabilities: Mapping[str, bool] | None = None) -> RawClient:
        """
        Connect a client that says what it is told to, on channel 1.
        """
        client = await self.peer.connect_raw()
        self.addCleanup(client.hang_up)
        client.write(handshake(vhost=self.vhost, capabilities=capabilities))
        client.say(1, spec.ChannelOpen())
        await self.hear(client, spec.ChannelOpenOk)
        return client

    async def hear(self, client: RawClient, last: type[Method]) -> list[Method]:
        """
        What such a client hears, until it has heard a certain method.
        """
        found: list[Method] = []

        async def heard() -> bool:
            found.extend(client.heard())
            return any(isinstance(each, last) for each in found)

        await self.until(heard, last.__name__)
        return found

    async def user(
        self, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> str:
        """
        Make a user, whose password is ``secret``, until the test ends.

        :returns: the name.
        """
        name = self.name("user")
        self.peer.add_user(name, "secret", self.vhost, (configure, write, read))
        return name

    # -- what is there -----------------------------------------------------------------

    async def queue(
        self, channel: Channel, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """
        Declare an exclusive queue.
        """
        name = self.name()
        await channel.queue_declare(name, exclusive=True, arguments=arguments)
        return name

    async def durable_queue(
        self, channel: Channel, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """
        Declare a durable queue, to be deleted when the test ends.
        """
        name = self.name()
        await channel.queue_declare(name, arguments=arguments)
        self.addCleanup(self._delete_queue, name)
        return name

    async def quorum_queue(self, channel: Channel, **arguments: Any) -> str:
        """
        Declare a quorum queue, to be deleted when the test ends.

        :param arguments: without ``x-``, and with underscores.
        """
        return await self.durable_queue(
            channel, {"x-queue-type": "quorum"} | arguments_of(arguments)
        )

    async def _delete_queue(self, name: str) -> None:
        # The test may have closed everything that it had.
        connection = await self.connect()
        channel = await connection.open_channel()
        await channel.queue_delete(name)
        await connection.close()

    async def exchange(
        self,
        channel: Channel,
        exchange_type: str = "direct",
        arguments: Mapping[str, Any] | None = None,
        **flags: bool,
    ) -> str:
        """
        Declare an exchange.
        """
        name = self.name("exchange")
        await channel.exchange_declare(
            name, exchange_type, arguments=arguments, **flags
        )
        return name

    async def bound(
        self,
        channel: Channel,
        exchange: str,
        *keys: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """
        Declare an exclusive queue, and bind it, once for each routing key.
        """
        queue = await self.queue(channel)
        for key in keys or ("",):
            await channel.queue_bind(queue, exchange, key, arguments)
        return queue

    # -- reading -----------------------------------------------------------------------

    async def get(
        self, channel: Channel, queue: str, auto_ack: bool = False
    ) -> Delivery:
        """
        The next message of a queue, waited for.
        """
        found: list[Delivery] = []

        async def fetch() -> bool:
            delivery = await channel.basic_get(queue, auto_ack)
            if delivery is not None:
                found.append(delivery)
            return delivery is not None

        await self.until(fetch, f"a message in {queue}")
        return found[0]

    async def bodies(self, channel: Channel, queue: str) -> list[bytes]:
        """
        Take all the messages that are ready out of a queue.
        """
        found = []
        while (delivery := await channel.basic_get(queue, auto_ack=True)) is not None:
            found.append(delivery.body)
        return found

    async def take(self, deliveries: Deliveries, count: int) -> list[Delivery]:
        """
        The next deliveries of a consumer, waited for.
        """
        return [await deliveries.get() for _ in range(count)]

    async def quiet(self, channel: Channel, queue: str) -> None:
        """
        Wait until what a queue has given to the consumers of a channel is here: the
        first answer may overtake it, in the broker, the second cannot.
        """
        for _ in range(2):
            await self.count(channel, queue)

    async def count(self, channel: Channel, queue: str) -> int:
        """
        How many messages are ready in a queue.
        """
        declared = await channel.queue_declare(queue, passive=True)
        return declared.message_count

    async def until_count(self, channel: Channel, queue: str, count: int) -> None:
        """
        Wait until so many messages are ready in a queue.
        """

        async def reached() -> bool:
            return await self.count(channel, queue) == count

        await self.until(reached, f"{count} messages in {queue}")

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str = "it"
    ) -> None:
        """
        Ask the broker again and again, until something is so.
        """
        from twisted.internet import reactor

        deadline = reactor.seconds() + PATIENCE
        while not await condition():
            if reactor.seconds() > deadline:
                self.fail(f"still not there: {what}")
            await deferLater(reactor, 0.01)

    def left(self, delivery: Delivery) -> int:
        """
        How many more messages there were, when this one was got.
        """
        return spec.BasicGetOk.decode(delivery._method).message_count

    # -- refusals ----------------------------------------------------------------------

    async def channel_refused(
        self,
        channel: Channel,
        call: Awaitable[object],
        code: int,
        operation: str,
        text: str,
    ) -> ChannelClosed:
        """
        See the broker refuse a call, and close the channel, and nothing else.

        :param operation: the method that it names, such as ``queue.declare``.
        :param text: a part of what it says.
        """
        connection = channel.connection
        error = await self._refused(call, code, operation, text)
        self.assertIsInstance(error, ChannelClosed)
        assert isinstance(error, ChannelClosed)
        self.assertFalse(channel.is_open)
        self.assertTrue(connection.is_open)
        other = await connection.open_channel()
        await other.basic_qos(prefetch_count=1)
        await other.close()
        return error

    async def connection_refused(
        self, call: Awaitable[object], code: int, operation: str, text: str
    ) -> ConnectionClosed:
        """
        See the broker refuse a call, and close the connection.
        """
        error = await self._refused(call, code, operation, text)
        self.assertIsInstance(error, ConnectionClosed)
        assert isinstance(error, ConnectionClosed)
        return error

    async def _refused(
        self, call: Awaitable[object], code: int, operation: str, text: str
    ) -> Closed:
        try:
            answer = await call
        except Closed as error:
            self.assertIn(text, error.reply_text)
            self.assertEqual((error.reply_code, error.operation), (code, operation))
            return error
        raise AssertionError(f"{answer!r}, instead of {code} {text}")

    async def cancelled(self, deliveries: Deliveries) -> None:
        """
        See the broker end a consumer.
        """
        try:
            delivery = await deliveries.get()
        except ConsumerCancelled as error:
            self.assertEqual(error.consumer_tag, deliveries.consumer.consumer_tag)
            return
        raise AssertionError(f"{delivery!r} instead of the end of the consumer")


def arguments_of(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments as RabbitMQ spells them.
    """
    return {f"x-{name.replace('_', '-')}": value for name, value in keywords.items()}
