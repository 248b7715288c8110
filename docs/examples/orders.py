"""
Takes orders from a queue, and publishes an invoice for each; an order that cannot be
read ends in the queue ``orders.dead``.

``test_orders.py`` tests it, without a broker.  To run it with one::

    python orders.py amqp://localhost
"""

from __future__ import annotations

import json
import sys

from twisted.internet.interfaces import IReactorTime
from twisted.logger import globalLogBeginner, textFileLogObserver

from txamqp091 import Channel, Delivery, Properties
from txamqp091.arguments import quorum_queue
from txamqp091.service.client import AMQPClientService
from txamqp091.service.recovery import RecoveringChannel
from txamqp091.service.topology import Exchange, Queue, Topology

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

    def __init__(self, channel: RecoveringChannel) -> None:
        """
        :param channel: where invoices are published, in confirm mode.
        """
        self.channel = channel

    async def take(self, delivery: Delivery) -> None:
        """
        Take one order, and acknowledge it when the broker has the invoice.
        """
        order = json.loads(delivery.body)
        invoice = {"number": order["number"], "total": sum(order["prices"])}
        await self.channel.call(
            Channel.basic_publish,
            "invoices",
            "new",
            json.dumps(invoice),
            Properties(content_type="application/json", delivery_mode=2),
        )
        delivery.ack()


def make_service(reactor: IReactorTime, uri: str) -> AMQPClientService:
    """
    The service: it connects to ``uri`` when it is started, and comes back.
    """
    service = AMQPClientService(reactor, uri, topology=TOPOLOGY)
    clerk = Clerk(service.channel(confirm=True))
    service.consume("orders", clerk.take, prefetch=10)
    return service


def main(uri: str) -> None:
    """
    Run it until somebody presses Ctrl-C.
    """
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    service = make_service(reactor, uri)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
