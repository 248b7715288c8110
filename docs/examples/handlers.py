"""
A handler for the consumer daemon, as ``make demo`` runs it.  In this folder::

    twistd -n amqp-consumer --uri amqp://localhost --queue orders --declare \
        --handler handlers:order
"""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txamqp091.message import Delivery


class Till:
    """
    Takes orders, and says now and then how many it has taken.
    """

    log = Logger()

    def __init__(self) -> None:
        self.taken = 0
        self.said_at = 0.0

    async def take(self, delivery: Delivery) -> None:
        """
        Take one order.  What is none raises an error here, which is all that has to
        be done about it: the daemon tries the message once more, and rejects it then.
        """
        order = json.loads(delivery.body)
        await self.store(order["number"])
        self.taken += 1
        if reactor.seconds() >= self.said_at + 0.2:
            self.said_at = reactor.seconds()
            self.log.info("{taken} orders so far", taken=self.taken)

    async def store(self, number: int) -> None:
        """
        Here a program would ask a database, or another service, and wait.
        """
        await deferLater(reactor, 0.002)


order = Till().take
