# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
Programs written for pika, with nothing changed but the import: those of its README, and
of RabbitMQ's tutorials.  The broker's address is put into them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.compat import pika
from txamqp091.compat.pika.adapters.blocking_connection import BlockingChannel
from txamqp091.compat.pika.connection import Parameters
from txamqp091.compat.pika.spec import Basic, BasicProperties
from txamqp091.test.support.served import CHECKOUT, BlockingTestCase, every_served

IMPORT = "import txamqp091.compat.pika as pika\n"

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


@every_served
class ChannelTests(BlockingTestCase):
    """
    pika's semantics, where they are not ours.
    """

    def setUp(self) -> None:
        super().setUp()
        self.pika = pika.BlockingConnection(pika.URLParameters(self.uri))
        self.addCleanup(self.close)
        self.channel = self.pika.channel()
        declared = self.channel.queue_declare("", exclusive=True)
        self.queue = declared.method.queue

    def close(self) -> None:
        """
        Close the connection, if the test has not.
        """
        if self.pika.is_open:
            self.pika.close()

    def test_binding(self) -> None:
        """
        A binding without a routing key has the name of the queue; an exchange takes an
        Enum as its type.
        """
        self.channel.exchange_declare(
            "compat-x", pika.ExchangeType.topic, auto_delete=True
        )
        self.channel.queue_bind(self.queue, "compat-x")
        self.channel.confirm_delivery()
        self.channel.basic_publish("compat-x", self.queue, b"bound", mandatory=True)
        method, properties, body = self.channel.basic_get(self.queue, auto_ack=True)
        assert method is not None
        self.assertEqual((body, method.message_count), (b"bound", 0))
        self.assertEqual(self.channel.basic_get(self.queue), (None, None, None))

    def test_no_prefetch(self) -> None:
        """
        Without basic_qos there is no prefetch limit.
        """
        for _ in range(150):
            self.channel.basic_publish("", self.queue, b"x")
        count = 0
        for method, _properties, _body in self.channel.consume(
            self.queue, inactivity_timeout=30
        ):
            assert method is not None
            count += 1
            if count == 150:
                self.channel.basic_ack(method.delivery_tag, multiple=True)
                break
        self.assertEqual(self.channel.cancel(), 0)

    def test_properties(self) -> None:
        """
        Properties are positional, and can be changed, also those that came.
        """
        sent = BasicProperties("text/plain", None, {"x-retries": 1})
        sent.delivery_mode = pika.DeliveryMode.Persistent
        sent.timestamp = 1700000000
        self.channel.basic_publish("", self.queue, "x", sent)
        _, found, _ = self.channel.basic_get(self.queue, auto_ack=True)
        assert found is not None and found.headers is not None
        self.assertEqual(
            (found.content_type, found.delivery_mode, found.timestamp),
            ("text/plain", 2, 1700000000),
        )
        found.headers["x-retries"] += 1
        self.channel.basic_publish("", self.queue, "x", found)
        _, again, _ = self.channel.basic_get(self.queue, auto_ack=True)
        assert again is not None
        self.assertEqual(again.headers, {"x-retries": 2})

    def test_closed_by_broker(self) -> None:
        """
        Why the broker closed a channel is raised once; later calls say that the channel
        is closed.
        """
        with self.assertRaises(pika.exceptions.ChannelClosedByBroker) as caught:
            self.channel.queue_declare("compat-nobody", passive=True)
        code, text = caught.exception.args
        self.assertEqual(code, 404)
        self.assertIsInstance(caught.exception.__cause__, errors.NotFound)
        self.assertRaises(
            pika.exceptions.ChannelWrongStateError, self.channel.queue_declare, "q"
        )

    def test_returned(self) -> None:
        """
        Without confirms a returned message goes to the callback, with them it is
        raised.
        """
        returned: list[Any] = []
        self.channel.add_on_return_callback(lambda *args: returned.append(args))
        self.channel.basic_publish("", "compat-nobody", b"1", mandatory=True)
        while not returned:
            self.pika.process_data_events(30)
        channel, method, _, body = returned[0]
        self.assertIs(channel, self.channel)
        self.assertEqual((method.reply_code, body), (312, b"1"))
        self.channel.confirm_delivery()
        with self.assertRaises(pika.exceptions.UnroutableError) as caught:
            self.channel.basic_publish("", "compat-nobody", b"2", mandatory=True)
        self.assertEqual(caught.exception.messages[0].body, b"2")

    def test_cancelled_by_broker(self) -> None:
        """
        A deleted queue ends its consumer: the callback is told, and start_consuming and
        consume end.
        """
        told: list[Any] = []
        self.channel.add_on_cancel_callback(told.append)
        tag = self.channel.basic_consume(self.queue, lambda *_: None)
        other = self.pika.channel()
        other.queue_delete(self.queue)
        self.channel.start_consuming()
        self.assertEqual([each.method.consumer_tag for each in told], [tag])
        queue = other.queue_declare("", exclusive=True).method.queue
        iterator = self.channel.consume(queue, inactivity_timeout=0.01)
        self.assertEqual(next(iterator), (None, None, None))
        other.queue_delete(queue)
        for item in iterator:
            self.assertEqual(item, (None, None, None))
        self.assertEqual(len(told), 2)

    def test_callbacks_while_iterating(self) -> None:
        """
        Callbacks are called while consume() waits.
        """
        seen: list[bytes] = []
        other = self.pika.channel()
        queue = other.queue_declare("", exclusive=True).method.queue
        other.basic_consume(
            queue, lambda channel, method, properties, body: seen.append(body), True
        )
        other.basic_publish("", queue, b"for the callback")
        for _ in self.channel.consume(self.queue, inactivity_timeout=0.01):
            if seen:
                break
        self.assertEqual(seen, [b"for the callback"])

    def test_close_in_callback(self) -> None:
        """
        Closing the channel in a callback ends start_consuming.
        """
        self.channel.basic_consume(
            self.queue, lambda channel, *_: channel.close(), auto_ack=True
        )
        self.channel.basic_publish("", self.queue, b"x")
        self.channel.start_consuming()
        self.assertTrue(self.channel.is_closed)
        self.assertRaises(pika.exceptions.ChannelWrongStateError, self.channel.close)

    def test_reentrancy(self) -> None:
        """
        start_consuming in a callback is refused.
        """
        caught: list[Any] = []

        def callback(channel: BlockingChannel, *_: Any) -> None:
            try:
                channel.start_consuming()
            except pika.exceptions.ReentrancyError as error:
                caught.append(error)
            channel.stop_consuming()

        self.channel.basic_consume(self.queue, callback, auto_ack=True)
        self.channel.basic_publish("", self.queue, b"x")
        self.channel.start_consuming()
        self.assertEqual(len(caught), 1)

    def test_closed_connection(self) -> None:
        """
        A closed connection refuses calls.
        """
        self.pika.close()
        for call in (self.pika.channel, self.pika.close, self.pika.process_data_events):
            self.assertRaises(pika.exceptions.ConnectionWrongStateError, call)
        self.assertTrue(self.channel.is_closed)


class NamesTests(SynchronousTestCase):
    """
    Names that programs for pika use, and parameters.
    """

    def test_parameters(self) -> None:
        """
        Parameters are made in pika's order, and can be assigned to.
        """
        credentials = pika.PlainCredentials("me", "secret")
        made = pika.ConnectionParameters(
            "rabbit",
            5673,
            "mine",
            credentials,
            heartbeat=7,
            blocked_connection_timeout=300,
            socket_timeout=3,
        )
        made.host = "other"
        native = made.native()
        self.assertEqual(
            (native.host, native.port, native.virtual_host), ("other", 5673, "mine")
        )
        self.assertEqual((native.heartbeat, native.connection_timeout), (7, 3))
        self.assertEqual(list(native.credentials), [credentials])
        with self.assertRaises(TypeError):
            pika.ConnectionParameters(colour="red")

    def test_urls(self) -> None:
        """
        A path of ``/`` is the virtual host ``/``, and the query has pika's names.
        """
        for url, vhost in (
            ("amqp://me:se%2Fcret@rabbit:5673/", "/"),
            ("amqp://me:se%2Fcret@rabbit:5673", "/"),
            ("amqp://me:se%2Fcret@rabbit:5673/%2f", "/"),
            ("amqp://me:se%2Fcret@rabbit:5673/mine", "mine"),
        ):
            made = pika.URLParameters(url + "?heartbeat=5&connection_attempts=3")
            self.assertEqual((made.virtual_host, made.port), (vhost, 5673))
            self.assertEqual((made.heartbeat, made.connection_attempts), (5, 3))
            self.assertEqual(made.native().virtual_host, vhost)
            self.assertNotIn("cret", repr(made))
        secure = pika.URLParameters("amqps://rabbit")
        self.assertEqual(secure.port, 5671)
        self.assertIsNotNone(secure.native().tls)
        for wrong in ("ftp://me:pass@h", "amqp://me:pass@h?colour=red"):
            error = self.assertRaises(ValueError, pika.URLParameters, wrong)
            self.assertNotIn("pass", str(error))

    def test_imports(self) -> None:
        """
        The modules that programs import from have their names.
        """
        for module, names in (
            ("exceptions", "AMQPConnectionError ChannelClosedByBroker"),
            ("spec", "Basic BasicProperties PERSISTENT_DELIVERY_MODE"),
            ("exchange_type", "ExchangeType"),
            ("delivery_mode", "DeliveryMode"),
            ("channel", "Channel"),
            ("frame", "Method"),
            ("adapters", "BlockingConnection"),
            ("adapters.blocking_connection", "BlockingChannel BlockingConnection"),
            ("credentials", "ExternalCredentials PlainCredentials"),
            ("connection", "Parameters ConnectionParameters URLParameters SSLOptions"),
        ):
            found = importlib.import_module(f"txamqp091.compat.pika.{module}")
            for name in names.split():
                self.assertTrue(hasattr(found, name), f"{module}.{name}")
        self.assertTrue(issubclass(pika.URLParameters, Parameters))
        self.assertEqual(Basic.Deliver("t", 1).exchange, "")

    def test_exceptions(self) -> None:
        """
        Each of our errors becomes one of pika's.
        """
        theirs = pika.exceptions
        for ours, expected in (
            (errors.ConnectionLost("gone"), theirs.StreamLostError),
            (errors.HeartbeatTimeout("silent"), theirs.AMQPHeartbeatTimeout),
            (errors.AuthenticationFailed("no"), theirs.ProbableAuthenticationError),
            (errors.VhostAccessRefused("no"), theirs.ProbableAccessDeniedError),
            (errors.ConnectFailed("no"), theirs.AMQPConnectionError),
            (errors.ConnectionForced("bye"), theirs.ConnectionClosedByBroker),
            (errors.ConnectionClosed(by_us=True), theirs.ConnectionClosedByClient),
            (errors.NotFound("no"), theirs.ChannelClosedByBroker),
            (errors.ChannelClosed(by_us=True), theirs.ChannelClosedByClient),
            (errors.ChannelsExhausted("all"), theirs.NoFreeChannels),
            (errors.InvalidURI("no"), theirs.AMQPError),
        ):
            self.assertIs(type(theirs.translated(ours)), expected, ours)
        other = OSError("no")
        self.assertIs(theirs.translated(other), other)

    def test_naive_datetimes(self) -> None:
        """
        A ``datetime`` without a time zone is in UTC.
        """
        naive = datetime(2026, 1, 2, 3, 4, 5)
        properties = BasicProperties(
            headers={"at": naive, "more": [naive]}, timestamp=naive
        )
        native = properties.native()
        aware = naive.replace(tzinfo=UTC)
        self.assertEqual(native.headers, {"at": aware, "more": [aware]})
        self.assertEqual(native.timestamp, aware)
        self.assertEqual(properties.headers, {"at": naive, "more": [naive]})

    def test_names_of_methods(self) -> None:
        """
        Methods have pika's names.
        """
        self.assertEqual(Basic.GetOk(1).NAME, "Basic.GetOk")
        self.assertEqual(Basic.Deliver("tag", 1).NAME, "Basic.Deliver")

    def test_compat(self) -> None:
        """
        pika's helpers for types are there.
        """
        self.assertEqual(pika.compat.as_bytes("é"), b"\xc3\xa9")
        self.assertEqual(pika.compat.as_bytes(b"a"), b"a")
        self.assertEqual(repr(pika.compat.long(7)), "7L")
