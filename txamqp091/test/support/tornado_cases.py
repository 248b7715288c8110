# -*- test-case-name: txamqp091.test.unit.adapters.test_tornado -*-
"""
What is tried by Tornado's own test case.  It is in a module of its own so that nobody
but `txamqp091.test.unit.adapters.test_tornado` collects it, which says where the broker
is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tornado import gen, testing
from tornado.util import TimeoutError

from txamqp091.adapters.tornado import Channel, connect, connect_future
from txamqp091.message import Delivery

__all__ = ["TornadoCase"]


class TornadoCase(testing.AsyncTestCase):
    """
    The scenarios, for one broker.
    """

    uri = ""
    queue = ""

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """
        A channel with a queue.
        """
        async with await connect(self.uri) as connection:
            channel = await connection.open_channel()
            await channel.queue_declare(self.queue, exclusive=True)
            yield channel

    @testing.gen_test(timeout=60)
    async def test_native_coroutine(self) -> None:
        """
        Coroutines of Tornado's loop publish, and consume.
        """
        async with self.channel() as channel:
            await channel.confirm_select()
            await channel.basic_publish("", self.queue, "x")
            async with await channel.consume(self.queue) as deliveries:
                async for delivery in deliveries:
                    assert delivery.body == b"x"
                    delivery.ack()
                    break

    @testing.gen_test(timeout=60)
    async def test_decorated_handler(self) -> None:
        """
        A handler may be one of Tornado's own coroutines.
        """
        done: asyncio.Future[bytes] = asyncio.Future()

        @gen.coroutine
        def handle(delivery: Delivery):  # type: ignore[no-untyped-def]
            yield gen.sleep(0)
            delivery.ack()
            done.set_result(delivery.body)

        async with self.channel() as channel:
            await channel.basic_consume(self.queue, handle)
            await channel.basic_publish("", self.queue, "x")
            assert await gen.with_timeout(self.io_loop.time() + 60, done) == b"x"

    @testing.gen_test(timeout=60)
    async def test_timeout(self) -> None:
        """
        Tornado's time limits end the waiting, and the channel lives on.
        """
        async with self.channel() as channel:
            deliveries = await channel.consume(self.queue)
            waiting = asyncio.ensure_future(deliveries.get())
            try:
                await gen.with_timeout(self.io_loop.time() + 0.01, waiting)
            except TimeoutError:
                waiting.cancel()
            else:
                raise AssertionError("there was nothing")
            await channel.queue_declare(self.queue, passive=True)

    def test_callbacks(self) -> None:
        """
        Who has no coroutine gets a Future.
        """
        opening = connect_future(self.uri, io_loop=self.io_loop)
        self.io_loop.add_future(opening, lambda _: self.stop())
        self.wait(timeout=60)
        self.io_loop.run_sync(opening.result().close)
