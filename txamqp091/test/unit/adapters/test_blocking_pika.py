# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking_pika -*-
"""
Programs written for pika, with nothing changed but the import: those of its README, and
of RabbitMQ's tutorials.  The broker's address is put into them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters import _pika
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import AMQPError
from txamqp091.test.support.served import CHECKOUT, BlockingTestCase, every_served

IMPORT = "import txamqp091.adapters._pika as pika\n"

SEND = """
connection = pika.BlockingConnection()
channel = connection.channel()
channel.basic_publish(exchange='test', routing_key='test',
                      body=b'Test message.')
connection.close()
"""

RECEIVE = """
connection = pika.BlockingConnection()
channel = connection.channel()

for method_frame, properties, body in channel.consume('test'):
    # Display the message parts and acknowledge the message
    print(method_frame, properties, body)
    channel.basic_ack(method_frame.delivery_tag)

    # Escape out of the loop after 10 messages
    if method_frame.delivery_tag == 10:
        break

# Cancel the consumer and return any pending messages
requeued_messages = channel.cancel()
print('Requeued %i messages' % requeued_messages)
connection.close()
"""

THREADS = """
import functools
import threading

connection = pika.BlockingConnection()
channel = connection.channel()
result = channel.queue_declare(queue='', exclusive=True)
queue_name = result.method.queue
channel.basic_qos(prefetch_count=1)

def ack_message(channel, delivery_tag):
    if channel.is_open:
        channel.basic_ack(delivery_tag)
        if delivery_tag == 3:
            channel.stop_consuming()
    else:
        print("the channel is closed")

def do_work(channel, delivery_tag, body):
    print(body.decode())
    cb = functools.partial(ack_message, channel, delivery_tag)
    channel.connection.add_callback_threadsafe(cb)

def on_message(channel, method_frame, header_frame, body, args):
    threads = args
    delivery_tag = method_frame.delivery_tag
    t = threading.Thread(target=do_work, args=(channel, delivery_tag, body))
    t.start()
    threads.append(t)

threads = []
on_message_callback = functools.partial(on_message, args=(threads))
channel.basic_consume(queue=queue_name, on_message_callback=on_message_callback)
for number in range(3):
    channel.basic_publish(
        exchange='',
        routing_key=queue_name,
        body=f"message {number}",
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
    )
try:
    channel.start_consuming()
except KeyboardInterrupt:
    channel.stop_consuming()
for thread in threads:
    thread.join()
connection.close()
"""

RPC = """
import uuid

class FibonacciRpcClient(object):
    def __init__(self):
        self.connection = pika.BlockingConnection()
        self.channel = self.connection.channel()
        result = self.channel.queue_declare(queue='', exclusive=True)
        self.callback_queue = result.method.queue
        self.channel.basic_consume(
            queue=self.callback_queue,
            on_message_callback=self.on_response,
            auto_ack=True)
        self.response = None
        self.corr_id = None

    def on_response(self, ch, method, props, body):
        if self.corr_id == props.correlation_id:
            self.response = body

    def call(self, n):
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange='',
            routing_key=self.callback_queue,
            properties=pika.BasicProperties(
                reply_to=self.callback_queue,
                correlation_id=self.corr_id,
            ),
            body=str(n))
        while self.response is None:
            self.connection.process_data_events(time_limit=None)
        return int(self.response)

print(FibonacciRpcClient().call(30))
try:
    channel = FibonacciRpcClient().channel
    channel.confirm_delivery()
    channel.basic_publish('', 'nobody', b'x', mandatory=True)
except pika.exceptions.UnroutableError:
    print('Message was returned')
try:
    channel.queue_declare('nobody', passive=True)
except pika.exceptions.ChannelClosedByBroker as error:
    print(error.reply_code)
"""


@every_served
class PikaTests(BlockingTestCase):
    """
    Programs for pika run.
    """

    def setUp(self) -> None:
        """
        Have the queue, and its exchange, that the README's programs are about.
        """
        super().setUp()
        channel = self.connection().channel()
        channel.exchange_declare("test")
        channel.queue_declare("test")
        channel.queue_bind("test", "test", "test")
        self.addCleanup(channel.queue_delete, "test")
        self.channel = channel

    def run_program(self, program: str) -> str:
        """
        Run a program with our import in place of pika's, and return what it prints.
        """
        self.assertIn("pika.BlockingConnection()", program)
        program = IMPORT + dedent(program).replace(
            "pika.BlockingConnection()",
            f"pika.BlockingConnection(pika.URLParameters({self.uri!r}))",
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        return done.stdout

    def test_readme(self) -> None:
        """
        The README's two programs run, and the second one knows how many messages went
        back.
        """
        self.run_program(SEND)
        self.channel.confirm_delivery()
        for _ in range(29):
            self.channel.basic_publish("test", "test", b"Test message.")
        lines = self.run_program(RECEIVE).splitlines()
        self.assertEqual(len(lines), 11)
        self.assertIn("b'Test message.'", lines[0])
        self.assertRegex(lines[10], r"Requeued \d+ messages")
        self.expect_depth(self.channel, "test", 20)

    def test_threads(self) -> None:
        """
        So does acknowledging from threads.
        """
        said = self.run_program(THREADS)
        self.assertEqual(said, "message 0\nmessage 1\nmessage 2\n")

    def test_tutorial(self) -> None:
        """
        So does the tutorials' client of a remote call, and what catches errors.
        """
        self.assertEqual(self.run_program(RPC), "30\nMessage was returned\n404\n")


class NamesTests(SynchronousTestCase):
    """
    Names that programs for pika use.
    """

    def test_parameters(self) -> None:
        """
        Parameters are made in pika's order.
        """
        credentials = PlainCredentials("me", "secret")
        made = _pika.ConnectionParameters(
            "rabbit", 5673, "mine", credentials, heartbeat=7
        )
        self.assertEqual(
            (made.host, made.port, made.virtual_host), ("rabbit", 5673, "mine")
        )
        self.assertEqual((list(made.credentials), made.heartbeat), ([credentials], 7))
        self.assertEqual(_pika.ConnectionParameters().host, "localhost")

    def test_exceptions(self) -> None:
        """
        Each of pika's exceptions is one of ours.
        """
        for name, error in vars(_pika.exceptions).items():
            if not name.startswith("_"):
                self.assertTrue(issubclass(error, AMQPError), name)
