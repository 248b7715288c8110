"""
A program with all its types, for type checkers alone: see ``.ci/types``.
"""

from __future__ import annotations

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from txamqp091 import (
    AMQPClientFactory,
    AMQPClientService,
    AMQPProtocol,
    Channel,
    ConnectionParameters,
    Delivery,
    ExternalCredentials,
    PlainCredentials,
    Properties,
    Publisher,
    connect,
)
from txamqp091.testing import BrokerTestCase, MemoryBroker


class Token:
    """
    Credentials of the program's own.
    """

    mechanism = "PLAIN"

    def respond(self, challenge: bytes | None) -> Deferred[bytes]:
        return Deferred()


def handle(delivery: Delivery) -> None:
    body: bytes = delivery.body
    key: str = delivery.routing_key
    assert body and key and delivery.headers.get("n")
    delivery.ack()


async def handle_later(delivery: Delivery) -> None:
    delivery.ack()


async def main(clock: IReactorTime) -> None:
    from twisted.internet import reactor

    for credentials in (PlainCredentials("a", "b"), Token()):
        parameters = ConnectionParameters(credentials=credentials)
        await connect(clock, parameters, credentials=[credentials])
    several = ConnectionParameters(
        credentials=[ExternalCredentials(), PlainCredentials("a", "b")]
    )
    name: str = several.credentials[0].mechanism
    AMQPClientFactory(several, clock=Clock())
    async with await connect(reactor, "amqp://localhost") as connection:
        ended: AMQPProtocol = connection
        channel: Channel = await connection.open_channel()
        queue: str = (await channel.queue_declare(name)).queue
        consumer = await channel.basic_consume(queue, handle)
        await channel.basic_consume(queue, handle_later)
        async for each in await channel.consume(queue):
            each.ack()
        count: int = await consumer.cancel()
        connection.transport.abortConnection()
    assert ended.heartbeat and count
    service = AMQPClientService(reactor, "amqp://localhost", credentials=Token())
    service.setServiceParent(MultiService())
    publisher = Publisher(service)
    await publisher.publish("", "q", b"x", Properties(headers={"a": [1, {"b": None}]}))


def make_service(reactor: IReactorTime) -> AMQPClientService:
    return AMQPClientService(reactor, "amqp://localhost")


class ServiceTests(BrokerTestCase):
    """
    What a test case has.
    """

    def test_service(self) -> None:
        self.start(make_service(self.reactor))
        self.start(AMQPClientService(self.reactor, "amqp://localhost"))
        self.reactor.callLater(1, repr, self.reactor.seconds())


async def listen(clock: Clock) -> None:
    port = MemoryBroker(clock).listen(clock)
    assert port.getHost().port
    await port.stopListening()
