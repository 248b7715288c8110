import shop

from txamqp091.service import AMQPClientService
from txamqp091.testing import BrokerTestCase
from txamqp091.worker import ConsumerService


class ShopTests(BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.broker.declare_queue("orders")
        client = AMQPClientService(self.reactor, "amqp://localhost")
        self.start(client)
        self.start(ConsumerService(client, "orders", shop.order))

    def send(self, body):
        self.broker.publish("", "orders", body)
        self.flush()

    def test_order(self):
        self.send(b'{"number": 7, "item": "tea"}')
        self.assertQueue("orders", ready=0, unacked=0)

    def test_no_order(self):
        self.send(b"one pizza, please")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertQueue("orders", unacked=1)  # the message is not lost
        self.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)  # tried again

    def test_connection_lost(self):
        self.link.cut()
        self.advance(1)
        self.send(b'{"number": 8, "item": "coffee"}')
        self.assertQueue("orders", ready=0, unacked=0, consumers=1)
