# -*- test-case-name: txamqp091.test.scenarios.test_exclusive -*-
"""
Scenarios: queues that are for one connection.
"""

from __future__ import annotations

from typing import Any

from txamqp091.test.support.scenarios import Scenario, every_peer


@every_peer
class ExclusiveQueueScenarios(Scenario):
    """
    A queue that is exclusive is for one connection.
    """

    async def locked(self, call: str, operation: str) -> None:
        """
        See another connection refused, with 405.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        other = await (await self.connect()).open_channel()
        calls: dict[str, Any] = {
            "declare": lambda: other.queue_declare(queue, exclusive=True),
            "passive": lambda: other.queue_declare(queue, passive=True),
            "consume": lambda: other.consume(queue),
            "get": lambda: other.basic_get(queue),
            "purge": lambda: other.queue_purge(queue),
            "delete": lambda: other.queue_delete(queue),
            "bind": lambda: other.queue_bind(queue, "amq.direct", "k"),
        }
        text = (
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue "
            f"'{queue}' in vhost '{self.vhost}'"
        )
        await self.channel_refused(other, calls[call](), 405, operation, text)

    async def test_declare(self) -> None:
        """
        Others cannot declare it.
        """
        await self.locked("declare", "queue.declare")

    async def test_passive(self) -> None:
        """
        Nor ask for it.
        """
        await self.locked("passive", "queue.declare")

    async def test_consume(self) -> None:
        """
        Nor consume from it.
        """
        await self.locked("consume", "basic.consume")

    async def test_get(self) -> None:
        """
        Nor fetch from it.
        """
        await self.locked("get", "basic.get")

    async def test_purge(self) -> None:
        """
        Nor purge it.
        """
        await self.locked("purge", "queue.purge")

    async def test_delete(self) -> None:
        """
        Nor delete it.
        """
        await self.locked("delete", "queue.delete")

    async def test_bind(self) -> None:
        """
        Nor bind it.
        """
        await self.locked("bind", "queue.bind")

    async def test_publish(self) -> None:
        """
        But they can publish to it.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        other = await (await self.connect()).open_channel()
        await other.confirm_select()
        await other.basic_publish("", queue, "x", mandatory=True)
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_other_channel(self) -> None:
        """
        Other channels of the connection can use it, and it outlives the channel that
        made it.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        other = await self.channel()
        await channel.close()
        await other.basic_publish("", queue, "x")
        self.assertEqual(await self.bodies(other, queue), [b"x"])

    async def test_ends_with_connection(self) -> None:
        """
        It is gone with its connection.
        """
        connection = await self.connect()
        queue = await self.queue(await connection.open_channel())
        await connection.close()
        channel = await self.channel()
        call = channel.queue_declare(queue, passive=True)
        await self.channel_refused(channel, call, 404, "queue.declare", queue)
