"""
The Twisted layer of fedora-messaging, in what it does for its users, on the public API
of txamqp091: the rows F1 to F29 of what others had to build are named where they went.

::

    service = FedoraService(reactor, "amqps://rabbitmq.fedoraproject.org/%2Fpublic")
    consumer = service.consume(print, ["org.fedoraproject.#"], Queue(exclusive=True))
    service.startService()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from txamqp091 import Delivery, Properties
from txamqp091.errors import AccessRefused, ConsumerCancelled
from txamqp091.service import (
    AMQPClientService,
    Binding,
    EntityOutcome,
    Exchange,
    Publisher,
    Queue,
)
from txamqp091.worker import ConsumerHealth, Health

TOPIC = Exchange(name="amq.topic", type="topic")


class Nack(Exception):
    """F18, raised by a callback: give the message to somebody else."""


class Drop(Exception):
    """F18, raised by a callback: throw the message away."""


class HaltConsumer(Exception):
    """F18, raised by a callback: consume no more."""

    def __init__(self, exit_code: int = 0, requeue: bool = False) -> None:
        super().__init__(exit_code)
        self.exit_code, self.requeue = exit_code, requeue


class BadDeclaration(Exception):
    """F11: the broker does not agree to a queue, an exchange or a binding."""


class FedoraConsumer:
    """
    A callback and its queue.  F22: its tag stays the same; F16, F15: nothing is polled;
    F17: one message at a time, by a function in a thread, or a coroutine.

    :ivar result: F19 to F21: fires when it was cancelled; fails with why it ended.
    """

    def __init__(
        self, service: FedoraService, queue: Queue, callback: Callable[[Any], Any]
    ) -> None:
        self.queue, self.callback = queue, callback
        self.result: Deferred[FedoraConsumer] = Deferred()
        self.received = self.processed = self.dropped = self.rejected = 0  # F25
        self.subscription = service.client.consume(
            queue, self.take, prefetch=1, on_cancelled="end", on_refused="end"
        )
        self.subscription.when_ended().addCallbacks(lambda _: self.end(), self.end)

    async def take(self, delivery: Delivery) -> None:
        self.received += 1
        try:
            if inspect.iscoroutinefunction(self.callback):
                await self.callback(delivery)
            else:
                await deferToThread(self.callback, delivery)
        except Nack:
            self.rejected += 1
            delivery.nack()
        except Drop:
            self.dropped += 1
            delivery.reject(requeue=False)
        except HaltConsumer as halt:
            delivery.nack() if halt.requeue else delivery.ack()
            self.end(Failure() if halt.exit_code else None)
        except Exception:
            delivery.nack()
            self.end(Failure())
        else:
            self.processed += 1
            delivery.ack()

    def declared(self, outcomes: list[EntityOutcome]) -> None:
        for error in [each.error for each in outcomes if each.error]:
            final = isinstance(error, AccessRefused)  # F20
            self.end(Failure(error if final else BadDeclaration(str(error))))

    def end(self, why: Failure | None = None) -> None:
        if not self.result.called:
            self.result.callback(self if why is None else why)
        self.subscription.cancel()  # F10: as often as one likes; F12

    def health(self) -> Health:
        """F25: for `txamqp091.daemon.admin.admin_site`, which serves it."""
        queue, subscribed = str(self.queue), self.subscription.is_subscribed
        one = ConsumerHealth(name=queue, queue=queue, subscribed=subscribed)
        return Health(consumers=[one], connected=subscribed)


def exit_code(error: BaseException | None) -> int:
    """F26: what the process should exit with, by the failure of a consumer's result."""
    codes = {BadDeclaration: 10, ConsumerCancelled: 12, AccessRefused: 15}
    return getattr(error, "exit_code", codes.get(type(error), 13)) if error else 0


class FedoraService:
    """
    F1, F2, F4, F5, F11, F14: the connection that comes back with its topology is
    `AMQPClientService`; F23, F24: TLS and where to connect are in the URI; F3, F9: what
    goes wrong has a type.
    """

    def __init__(self, reactor: Any, uri: Any, **options: Any) -> None:
        self.client = AMQPClientService(reactor, uri, **options)
        self.publisher = Publisher(self.client)  # F6, F7, F8
        self.when_connected = self.client.when_ready  # F2
        self.startService = self.client.startService
        # F12 to F14: waits for callbacks and confirms, in any state, and twice.
        self.stopService = self.client.stopService

    def publish(
        self, topic: str, body: bytes, headers: Mapping[str, Any], timeout: float = 30
    ) -> Deferred[None]:
        """F6, F8, F29: until it is confirmed, refused, or has taken too long."""
        properties = Properties(headers=dict(headers), delivery_mode=2)
        published = self.publisher.publish(TOPIC.name, topic, body, properties)
        return published.addTimeout(timeout, self.client.reactor)

    def consume(
        self, callback: Callable[[Any], Any], keys: Iterable[str], queue: Queue
    ) -> FedoraConsumer:
        """F4, F5, F11: the queue and its bindings come back, under any name."""
        bindings = [Binding(source=TOPIC, queue=queue, routing_key=k) for k in keys]
        declared = self.client.declare(TOPIC, queue, *bindings)
        consumer = FedoraConsumer(self, queue, callback)
        declared.addCallbacks(consumer.declared, lambda _: None)
        return consumer
