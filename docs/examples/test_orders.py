"""
Tests for ``orders.py``, which need no broker: run them by ``python -m twisted.trial
test_orders``, or ``python -m pytest test_orders.py``.
"""

from __future__ import annotations

from orders import make_service

from txamqp091.testing import BrokerTestCase, Direction


class OrderTests(BrokerTestCase):
    """
    The service, a broker, and a network that does what the test says.
    """

    def setUp(self) -> None:
        """
        Start the service.
        """
        super().setUp()
        self.start(make_service(self.reactor, "amqp://localhost"))

    def order(self, body: bytes = b'{"number": 7, "prices": [2, 3]}') -> None:
        """
        Somebody orders.
        """
        self.broker.publish("", "orders", body)
        self.flush()

    def test_invoice(self) -> None:
        """
        An order becomes an invoice.
        """
        self.order()
        self.assertPublished("invoices", "new", b'{"number": 7, "total": 5}')
        self.assertQueue("orders", ready=0, unacked=0)

    def test_unreadable(self) -> None:
        """
        What is no order is tried twice, and is then dead-lettered.
        """
        self.order(b"one pizza, please")
        self.assertQueue("orders", ready=0, unacked=0)
        self.assertQueue("orders.dead", bodies=[b"one pizza, please"])
        self.assertNotPublished("invoices")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_no_confirm(self) -> None:
        """
        An order is not done with before the broker has the invoice.
        """
        self.broker.hold_confirms()
        self.order()
        self.assertQueue("orders", unacked=1)
        self.broker.release_confirms()
        self.flush()
        self.assertQueue("orders", ready=0, unacked=0)

    def test_connection_lost(self) -> None:
        """
        When the connection breaks before the order is acknowledged, it is taken again:
        no order is lost, and invoices that come twice have one name.
        """
        self.broker.hold_confirms()
        self.order()
        self.link.cut()
        self.broker.release_confirms()
        self.advance(1)
        self.assertQueue("orders", ready=0, unacked=0, consumers=1)
        self.assertPublished("invoices", "new", message_id="invoice-7", count=3)

    def test_silence(self) -> None:
        """
        A connection that has silently died is noticed, and replaced.
        """
        self.link.hole(Direction.UP, Direction.DOWN)
        self.order()
        self.assertNotPublished("invoices")
        self.advance(150)
        self.assertPublished("invoices", "new", count=1)

    def test_broker_away(self) -> None:
        """
        A broker that is away for an hour is waited for.
        """
        self.endpoint.refusing = True
        self.link.cut()
        self.advance(3600)
        self.order()
        self.endpoint.refusing = False
        self.advance(30)
        self.assertPublished("invoices", "new")
