# -*- test-case-name: txamqp091.test.interop.test_fedora_port -*-
"""
The port of fedora-messaging's Twisted layer in ``docs/examples``, in memory and on
RabbitMQ: what others had to build over a client, without anything private of ours.
"""

from __future__ import annotations

import ast
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.errors import AccessRefused, ConsumerCancelled
from txamqp091.service import Queue, RetryPolicy
from txamqp091.test.repository.test_examples import EXAMPLES, need_examples
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.testing import AsyncBrokerTestCase

PATH = EXAMPLES / "fedora_port.py"
POLICY = RetryPolicy(initial_delay=0.05, max_delay=1.0)


def port() -> ModuleType:
    """
    The example's module.
    """
    need_examples()
    spec = spec_from_file_location("fedora_port", PATH)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(consumer: Any) -> Deferred[BaseException | None]:
    """
    Why a consumer has ended.
    """
    result: Deferred[Any] = consumer.result
    return result.addCallbacks(lambda _: None, lambda failure: failure.value)


class SourceTests(AsyncBrokerTestCase):
    """
    The example, as a text.
    """

    def test_public(self) -> None:
        """
        It is short, its imports aside, and uses nothing that begins with an underscore.
        """
        need_examples()
        text = PATH.read_text()
        code = text.rpartition(" import ")[2]
        self.assertLessEqual(len(code.splitlines()), 122)
        private = [
            node.attr
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute)
            if node.attr.startswith("_") and node.attr != "__init__"
        ]
        self.assertEqual(private, [])


class MemoryTests(AsyncBrokerTestCase):
    """
    The example, in memory (F28: no private function is patched).
    """

    def open_port(self, callback: Any, queue: Queue) -> tuple[Any, Any]:
        """
        Start a service that consumes.
        """
        self.port = port()
        service = self.port.FedoraService(self.reactor, self.uri, policy=POLICY)
        consumer = service.consume(callback, ["org.#"], queue)
        service.startService()
        self.addCleanup(service.stopService)
        return service, consumer

    async def test_life(self) -> None:
        """
        Messages are published and consumed, in threads, before and after a reconnect,
        from a queue whose name the broker makes up (F1, F2, F4 to F8, F15 to F17, F22,
        F25).
        """
        came: list[bytes] = []

        def callback(delivery: Any) -> None:
            came.append(delivery.body)

        service, consumer = self.open_port(callback, Queue(exclusive=True))
        await service.when_connected()
        await consumer.subscription.when_subscribed()
        tag = self.broker.queue(self.broker.queues()[0]).consumer_tags
        await service.publish("org.one", b"1", {"severity": 20})
        await self.until(lambda: consumer.processed == 1)
        self.assertTrue(consumer.health().ready)
        self.link.cut()
        await service.publish("org.two", b"2", {})
        await self.until(lambda: consumer.processed == 2)
        self.assertEqual(came, [b"1", b"2"])
        self.assertEqual(self.broker.queue(self.broker.queues()[0]).consumer_tags, tag)
        await service.stopService()
        await service.stopService()
        self.assertFalse(consumer.health().ready)

    async def test_exceptions(self) -> None:
        """
        What a callback raises decides what becomes of the message, and of the consumer
        (F18, F21, F26).
        """
        seen: list[bytes] = []

        async def callback(delivery: Any) -> None:
            seen.append(delivery.body)
            if delivery.body == b"nack" and not delivery.redelivered:
                raise self.port.Nack
            if delivery.body == b"drop":
                raise self.port.Drop
            if delivery.body == b"halt":
                raise self.port.HaltConsumer(exit_code=7)

        service, consumer = self.open_port(callback, Queue(name="work"))
        await consumer.subscription.when_subscribed()
        for body in (b"nack", b"drop", b"halt", b"left"):
            await service.publish("org.x", body, {})
        result = await outcome(consumer)
        self.assertEqual(self.port.exit_code(result), 7)
        self.assertEqual(seen, [b"nack", b"nack", b"drop", b"halt"])
        self.assertEqual((consumer.rejected, consumer.dropped), (1, 1))
        await service.stopService()
        self.assertQueue("work", ready=1)

    async def test_unexpected(self) -> None:
        """
        Any other exception gives the message back, and ends the consumer (F18, F26).
        """

        def callback(delivery: Any) -> None:
            raise ValueError(delivery.body)

        service, consumer = self.open_port(callback, Queue(name="work"))
        await consumer.subscription.when_subscribed()
        await service.publish("org.x", b"x", {})
        result = await outcome(consumer)
        self.assertEqual(self.port.exit_code(result), 13)
        await service.stopService()
        self.assertQueue("work", ready=1)

    async def test_deleted(self) -> None:
        """
        A consumer whose queue is deleted has ended, and says why (F10, F19, F20, F26).
        """
        _, consumer = self.open_port(print, Queue(name="work"))
        await consumer.subscription.when_subscribed()
        self.broker.delete_queue("work")
        result = await outcome(consumer)
        self.assertIsInstance(result, ConsumerCancelled)
        self.assertEqual(self.port.exit_code(result), 12)

    async def test_bad_declaration(self) -> None:
        """
        A queue that is there, and other than declared, ends the consumer (F11, F26).
        """
        self.broker.declare_queue("work", durable=False)
        _, consumer = self.open_port(print, Queue(name="work"))
        result = await outcome(consumer)
        self.assertEqual(self.port.exit_code(result), 10)

    async def test_forbidden_later(self) -> None:
        """
        A consumer that may not consume any more has ended, and says why (F20, F26).
        """
        _, consumer = self.open_port(print, Queue(name="work"))
        await consumer.subscription.when_subscribed()
        self.broker.set_permissions("guest", read="")
        self.broker.close_channels()
        result = await outcome(consumer)
        self.assertIsInstance(result, AccessRefused)
        self.assertEqual(self.port.exit_code(result), 15)

    async def test_forbidden(self) -> None:
        """
        What one may not do is final (F3, F20, F26): here, to bind the queue.  One that
        may not be declared is used as it is, if it exists.
        """
        self.broker.set_permissions("guest", configure="", write="")
        _, consumer = self.open_port(print, Queue(name="work"))
        result = await outcome(consumer)
        self.assertEqual(self.port.exit_code(result), 15)


@every_broker
class RabbitPortTests(RabbitTestCase):
    """
    The example, on RabbitMQ.
    """

    async def test_life(self) -> None:
        """
        It consumes what it publishes, also when the connection was reset, and gives
        back what it has not handled (F1, F2, F4 to F8, F12 to F14, F24).
        """
        from twisted.internet import reactor

        proxy = self.proxy()
        came: list[bytes] = []

        async def callback(delivery: Any) -> None:
            came.append(delivery.body)

        uri = self.uri.replace(f":{self.node.port}/", f":{proxy.port}/")
        service = port().FedoraService(reactor, uri, policy=POLICY)
        consumer = service.consume(callback, ["org.#"], Queue(exclusive=True))
        service.startService()
        self.addCleanup(service.stopService)
        await service.when_connected()
        await consumer.subscription.when_subscribed()
        await service.publish("org.one", b"1", {})
        await until(lambda: came == [b"1"])
        proxy.reset()
        await until(lambda: service.client.connection is None)
        await consumer.subscription.when_subscribed()
        await service.publish("org.two", b"2", {})
        await until(lambda: came == [b"1", b"2"])
        self.assertEqual(consumer.processed, 2)
        await service.stopService()
