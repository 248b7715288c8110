"""
Takes orders from a queue, and publishes an invoice for each; an order that cannot be
read ends in the queue ``orders.dead``.

``test_orders.py`` tests it, without a broker.  To run it with one::

    python orders.py amqp://localhost
"""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from txamqp091 import Delivery, Properties
from txamqp091.arguments import quorum_queue
from txamqp091.service import AMQPClientService, Exchange, Publisher, Queue, Topology

TOPOLOGY = Topology(
    exchanges=(Exchange(name="invoices", type="topic"),),
    queues=(
        Queue(
            name="orders",
            arguments=quorum_queue(
                dead_letter_exchange="", dead_letter_routing_key="orders.dead"
            ),
        ),
        Queue(name="orders.dead"),
    ),
)


class Clerk:
    """
    Makes invoices of orders.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher

    async def take(self, delivery: Delivery) -> None:
        """
        Take one order, and acknowledge it when the broker has the invoice.
        """
        order = json.loads(delivery.body)
        number = order["number"]
        invoice = {"number": number, "total": sum(order["prices"])}
        await self.publisher.publish(
            "invoices",
            "new",
            json.dumps(invoice),
            Properties(
                content_type="application/json",
                delivery_mode=2,
                # An invoice may arrive twice, and is to be known by this.
                message_id=f"invoice-{number}",
            ),
        )
        delivery.ack()


def make_service(reactor: IReactorTime, uri: str) -> AMQPClientService:
    """
    The service: it connects to ``uri`` when it is started, and comes back.
    """
    service = AMQPClientService(reactor, uri, topology=TOPOLOGY)
    clerk = Clerk(Publisher(service))
    # An order that fails twice goes to the dead letters: see TOPOLOGY.
    service.consume("orders", clerk.take, prefetch=10, on_failure="reject")
    return service


def main(reactor: Any, uri: str) -> Deferred[None]:
    """
    Run the service until Ctrl-C.
    """
    observers: list[Any] = [textFileLogObserver(sys.stdout)]
    globalLogBeginner.beginLoggingTo(observers)
    service = make_service(reactor, uri)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    return Deferred()  # it does not fire: Ctrl-C stops the reactor


if __name__ == "__main__":
    react(main, sys.argv[1:])
