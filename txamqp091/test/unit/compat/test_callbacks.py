"""
pika's connections with callbacks: each loop has the same behaviour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from tornado.platform.asyncio import AsyncIOLoop
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.compat import pika
from txamqp091.compat.pika import exceptions, spec
from txamqp091.compat.pika.adapters.select_connection import IOLoop
from txamqp091.compat.pika.adapters.tornado_connection import TornadoConnection
from txamqp091.compat.pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowAborted,
    AMQPConnectionWorkflowFailed,
)
from txamqp091.compat.pika.channel import Channel
from txamqp091.test.support.processes import free_ports
from txamqp091.test.support.served import ServedTestCase, every_served

if TYPE_CHECKING:
    _Base = ServedTestCase
else:
    _Base = object

#: How long a program may take.
GUARD = 120


class Callbacks(_Base):
    """
    Programs with callbacks.

    :cvar kind: the class of the connection.
    :ivar loop: the program's loop.
    """

    kind: Any
    loop: Any

    def setUp(self) -> None:
        super().setUp()
        self.problem: BaseException | None = None
        self.unhandled: list[BaseException] = []
        self.reasons: list[object] = []
        self.started = False
        self.prepare()

    # -- what a loop decides -----------------------------------------------------------

    def prepare(self) -> None:
        """
        Make the loop.
        """
        raise NotImplementedError

    def connect(self, parameters: Any, opened: Any, refused: Any, ended: Any) -> Any:
        """
        Begin to connect.
        """
        return self.kind(parameters, opened, refused, ended, self.loop)

    def run_loop(self) -> None:
        """
        Run until `stop` is called.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """
        End `run_loop`.
        """
        raise NotImplementedError

    # -- programs ----------------------------------------------------------------------

    def parameters(self) -> pika.URLParameters:
        """
        Where the broker is.
        """
        return pika.URLParameters(self.uri)

    def step(self, function: Callable[..., Any]) -> Callable[..., None]:
        """
        Make a callback that ends the program when it fails.
        """

        def called(*args: Any) -> None:
            try:
                function(*args)
            except Exception as problem:
                self.problem = problem
                self.stop()

        return called

    def program(self, on_channel: Callable[[Channel], Any]) -> None:
        """
        Run a program that begins with a channel, until its connection has ended.
        """

        def opened(connection: Any) -> None:
            connection.channel(on_open_callback=self.step(on_channel))

        def refused(_: Any, error: Exception) -> None:
            raise error

        connection = self.connect(
            self.parameters(), self.step(opened), self.step(refused), self.ended
        )
        self.run_program()
        self.assertTrue(connection.is_closed)

    def run_program(self) -> None:
        """
        Run the loop, and raise what a step has raised.
        """
        self.run_loop()
        if self.problem is not None:
            raise self.problem

    def ended(self, connection: Any, reason: Exception) -> None:
        """
        The connection has ended.
        """
        self.reasons.append(reason)
        self.stop()

    # -- behaviour ---------------------------------------------------------------------

    def test_message(self) -> None:
        """
        A message is published, confirmed, delivered and acknowledged.  Each answer
        comes to its callback, and the ends are told in order.
        """
        told: list[str] = []
        got: list[tuple[bytes, dict[str, Any] | None]] = []
        channels: list[Channel] = []
        over: set[str] = set()

        def begun(channel: Channel) -> None:
            channel.add_on_close_callback(lambda _, why: told.append(repr(why)))
            channel.queue_declare(
                "", exclusive=True, callback=self.step(partial(declared, channel))
            )

        def declared(channel: Channel, frame: Any) -> None:
            queue = frame.method.queue
            channels.append(channel)
            channel.confirm_delivery(self.step(confirmed))
            headers = {"n": 1}
            channel.basic_publish(
                "", queue, b"text", pika.BasicProperties(headers=headers)
            )
            tag = channel.basic_consume(queue, self.step(delivered), callback=consuming)
            self.assertEqual(channel.consumer_tags, [tag])

        def confirmed(frame: Any) -> None:
            self.assertIsInstance(frame.method, spec.Basic.Ack)
            told.append(f"ack {frame.method.delivery_tag}")
            done("confirmed", channels[0])

        def consuming(frame: Any) -> None:
            self.assertIsInstance(frame.method, spec.Basic.ConsumeOk)

        def delivered(
            channel: Channel, method: Any, properties: Any, body: Any
        ) -> None:
            got.append((body, properties.headers))
            channel.basic_ack(method.delivery_tag)
            channel.basic_cancel(
                method.consumer_tag, self.step(partial(cancelled, channel))
            )

        def cancelled(channel: Channel, frame: Any) -> None:
            self.assertIsInstance(frame.method, spec.Basic.CancelOk)
            self.assertEqual(channel.consumer_tags, [])
            done("cancelled", channel)

        def done(what: str, channel: Channel) -> None:
            over.add(what)
            if over == {"confirmed", "cancelled"}:
                channel.connection.close()
                self.assertTrue(channel.connection.is_closing)

        self.program(begun)
        self.assertEqual(got, [(b"text", {"n": 1})])
        self.assertIn("ack 1", told)
        self.assertEqual(told[-1], "ChannelClosedByClient: (200, 'Normal shutdown')")
        [reason] = self.reasons
        self.assertIsInstance(reason, exceptions.ConnectionClosedByClient)

    def test_channel_closed_by_broker(self) -> None:
        """
        The broker closes a channel: the channel's callback has the code, the channel
        cannot be used, and the connection can, by a number of the program's own.
        """
        closed: list[exceptions.ChannelClosedByBroker] = []

        def begun(channel: Channel) -> None:
            channel.add_on_close_callback(self.step(ended))
            channel.queue_declare(self.queue_name(), passive=True)

        def ended(channel: Channel, reason: Any) -> None:
            closed.append(reason)
            self.assertTrue(channel.is_closed)
            with self.assertRaises(exceptions.ChannelWrongStateError):
                channel.queue_declare("")
            with self.assertRaises(exceptions.ChannelWrongStateError):
                channel.close()
            channel.connection.channel(7, self.step(again))

        def again(channel: Channel) -> None:
            self.assertEqual(channel.channel_number, 7)
            with self.assertRaises(exceptions.InvalidChannelNumber):
                channel.connection.channel(7)
            channel.connection.close()

        self.program(begun)
        [reason] = closed
        self.assertIsInstance(reason, exceptions.ChannelClosedByBroker)
        self.assertEqual(reason.reply_code, 404)

    def test_close_channel(self) -> None:
        """
        A channel that the program closes tells so; the connection goes on.
        """
        told: list[Any] = []

        def begun(channel: Channel) -> None:
            channel.add_on_close_callback(self.step(ended))
            channel.close(300, "enough")
            self.assertTrue(channel.is_closing)

        def ended(channel: Channel, reason: Any) -> None:
            told.append(reason)
            self.assertTrue(channel.connection.is_open)
            channel.connection.close()

        self.program(begun)
        self.assertEqual(told[0].args, (300, "enough"))
        self.assertIsInstance(told[0], exceptions.ChannelClosedByClient)

    def test_get(self) -> None:
        """
        ``basic_get`` fetches one message; an empty queue answers to `add_callback`; a
        second one is refused while the first one waits.
        """
        got: list[Any] = []

        def begun(channel: Channel) -> None:
            channel.queue_declare(
                "", exclusive=True, callback=self.step(partial(declared, channel))
            )

        def declared(channel: Channel, frame: Any) -> None:
            queue = frame.method.queue
            channel.add_callback(
                self.step(partial(empty, channel, queue)), [spec.Basic.GetEmpty]
            )
            channel.basic_get(queue, self.step(fetched), auto_ack=True)
            with self.assertRaises(exceptions.DuplicateGetOkCallback):
                channel.basic_get(queue, self.step(fetched), auto_ack=True)

        def empty(channel: Channel, queue: str, _: Any) -> None:
            channel.basic_publish("", queue, "text")
            channel.basic_get(queue, self.step(fetched), auto_ack=True)

        def fetched(channel: Channel, method: Any, properties: Any, body: Any) -> None:
            got.append((body, method.message_count))
            channel.connection.close()

        self.program(begun)
        self.assertEqual(got, [(b"text", 0)])

    def test_returned(self) -> None:
        """
        A mandatory message without a queue comes back, and is acknowledged.
        """
        told: list[Any] = []

        def begun(channel: Channel) -> None:
            channel.add_on_return_callback(returned)
            channel.confirm_delivery(self.step(partial(confirmed, channel)))
            channel.basic_publish("", self.queue_name(), b"1", mandatory=True)

        def returned(channel: Channel, method: Any, properties: Any, body: Any) -> None:
            told.append((method.reply_code, body))

        def confirmed(channel: Channel, frame: Any) -> None:
            told.append(type(frame.method))
            channel.connection.close()

        self.program(begun)
        self.assertEqual(told, [(312, b"1"), spec.Basic.Ack])

    def test_consumer_cancelled(self) -> None:
        """
        A consumer that the broker ends is told.
        """
        told: list[str] = []
        queue = self.queue_name()

        def begun(channel: Channel) -> None:
            channel.add_on_cancel_callback(self.step(partial(cancelled, channel)))
            channel.queue_declare(queue, exclusive=True)
            channel.basic_consume(queue, lambda *_: None, consumer_tag="mine")
            with self.assertRaises(exceptions.DuplicateConsumerTag):
                channel.basic_consume(queue, lambda *_: None, consumer_tag="mine")
            channel.queue_delete(queue)

        def cancelled(channel: Channel, frame: Any) -> None:
            told.append(frame.method.consumer_tag)
            self.assertEqual(channel.consumer_tags, [])
            channel.connection.close()

        self.program(begun)
        self.assertEqual(told, ["mine"])

    def test_callback_fails(self) -> None:
        """
        An error of a callback reaches the loop; the connection lives on, and the
        message is not acknowledged.
        """
        bodies: list[bytes] = []

        def begun(channel: Channel) -> None:
            queue = self.queue_name()
            channel.queue_declare(queue, exclusive=True)
            for body in (b"1", b"2"):
                channel.basic_publish("", queue, body)
            channel.basic_consume(queue, delivered)

        def delivered(
            channel: Channel, method: Any, properties: Any, body: Any
        ) -> None:
            bodies.append(body)
            if body == b"1":
                raise LookupError("of the program")
            self.assertTrue(channel.is_open)
            channel.connection.close()

        self.program(begun)
        self.assertEqual(bodies, [b"1", b"2"])
        [error] = self.unhandled
        self.assertIsInstance(error, LookupError)

    def test_wrong_password(self) -> None:
        """
        The broker refuses a password: the callback for that is called.
        """
        parameters = self.parameters()
        parameters.credentials = pika.PlainCredentials("guest", "wrong")
        errors: list[Exception] = []

        def refused(connection: Any, error: Exception) -> None:
            errors.append(error)
            self.assertTrue(connection.is_closed)
            self.stop()

        self.connect(parameters, None, self.step(refused), None)
        self.run_program()
        self.assertIsInstance(errors[0], exceptions.ProbableAuthenticationError)

    def test_refused(self) -> None:
        """
        Nothing listens: the error comes once, after all attempts.
        """
        [port] = free_ports(1)
        parameters = pika.ConnectionParameters(
            "127.0.0.1", port, connection_attempts=3, retry_delay=0.01
        )
        errors: list[Exception] = []

        def refused(_: Any, error: Exception) -> None:
            errors.append(error)
            self.stop()

        self.connect(parameters, None, self.step(refused), None)
        self.run_program()
        [error] = errors
        self.assertIsInstance(error, exceptions.AMQPConnectionError)

    def test_create_connection(self) -> None:
        """
        The first broker that answers is connected to.
        """
        [port] = free_ports(1)
        nowhere = pika.ConnectionParameters("127.0.0.1", port)
        found: list[Any] = []

        def done(result: Any) -> None:
            found.append(result)
            self.assertIsInstance(result, self.kind)
            result.add_on_close_callback(self.ended)
            result.close()

        self.kind.create_connection(
            [nowhere, self.parameters()], self.step(done), self.loop
        )
        self.run_program()
        self.assertEqual(len(found), 1)

    def test_create_connection_fails(self) -> None:
        """
        No broker answers: the errors of all attempts come at once.
        """
        [port] = free_ports(1)
        nowhere = pika.ConnectionParameters(
            "127.0.0.1", port, connection_attempts=2, retry_delay=0.01
        )
        found: list[Any] = []

        def done(result: Any) -> None:
            found.append(result)
            self.stop()

        self.kind.create_connection([nowhere, nowhere], done, self.loop)
        self.run_program()
        [error] = found
        self.assertIsInstance(error, AMQPConnectionWorkflowFailed)
        self.assertEqual(len(error.exceptions), 4)

    def test_create_connection_aborted(self) -> None:
        """
        A program stops connecting.
        """
        found: list[Any] = []

        def done(result: Any) -> None:
            found.append(result)
            self.stop()

        self.kind.create_connection([self.parameters()], done, self.loop).abort()
        self.assertEqual(found, [])
        self.run_program()
        [error] = found
        self.assertIsInstance(error, AMQPConnectionWorkflowAborted)

    def test_close_while_opening(self) -> None:
        """
        A connection that is closed before it is open tells that it was.
        """
        errors: list[Exception] = []

        def refused(_: Any, error: Exception) -> None:
            errors.append(error)
            self.stop()

        connection = self.connect(self.parameters(), None, self.step(refused), None)
        connection.close()
        self.assertEqual(errors, [])
        self.run_program()
        [error] = errors
        self.assertIsInstance(error, exceptions.ConnectionOpenAborted)
        with self.assertRaises(exceptions.ConnectionWrongStateError):
            connection.close()
        with self.assertRaises(exceptions.ConnectionWrongStateError):
            connection.channel()


@every_served
class SelectTests(Callbacks, ServedTestCase):
    """
    ``SelectConnection``.
    """

    kind = pika.SelectConnection

    def prepare(self) -> None:
        self.loop = IOLoop()
        self.loop.call_later(GUARD, partial(self.fail, "the program hangs"))
        self.addCleanup(self.loop.close)

    def run_loop(self) -> None:
        while True:
            try:
                self.loop.start()
                return
            except LookupError as error:
                self.unhandled.append(error)

    def stop(self) -> None:
        self.loop.stop()


class _OnAsyncio(Callbacks):
    """
    Loops that are asyncio's.
    """

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Watch a loop.
        """
        loop.set_exception_handler(
            lambda _, context: self.unhandled.append(context["exception"])
        )
        loop.call_later(GUARD, self.stop)
        self.addCleanup(self.close, loop)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Let what was cancelled end, and close the loop.
        """
        tasks = asyncio.all_tasks(loop)
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


@every_served
class AsyncioTests(_OnAsyncio, ServedTestCase):
    """
    ``AsyncioConnection``.
    """

    kind = pika.AsyncioConnection

    def prepare(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.use(self.loop)

    def run_loop(self) -> None:
        self.loop.run_forever()

    def stop(self) -> None:
        self.loop.stop()


@every_served
class TornadoTests(_OnAsyncio, ServedTestCase):
    """
    ``TornadoConnection``.
    """

    kind = TornadoConnection

    def prepare(self) -> None:
        self.loop = AsyncIOLoop(make_current=False)
        self.addCleanup(self.loop.close)
        self.use(self.loop.asyncio_loop)

    def run_loop(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        self.loop.stop()


class IOLoopTests(SynchronousTestCase):
    """
    The loop of ``SelectConnection``.
    """

    kind = pika.SelectConnection

    def test_calls(self) -> None:
        """
        Functions are called later, soon and from other threads, and not when they were
        removed.
        """
        loop = IOLoop()
        self.addCleanup(loop.close)
        called: list[str] = []
        removed = loop.call_later(0, partial(called.append, "removed"))
        loop.remove_timeout(removed)
        loop.remove_timeout(removed)
        loop.add_callback(partial(called.append, "soon"))

        def from_thread() -> None:
            loop.add_callback_threadsafe(partial(called.append, "thread"))
            loop.add_callback_threadsafe(loop.stop)

        loop.call_later(0.001, Thread(target=from_thread).start)
        loop.start()
        self.assertEqual(called, ["soon", "thread"])

    def test_error(self) -> None:
        """
        An error ends `start`, which can be called again.
        """
        loop = IOLoop()
        self.addCleanup(loop.close)

        def fail() -> None:
            raise LookupError("of the program")

        loop.add_callback(fail)
        with self.assertRaises(LookupError):
            loop.start()
        loop.add_callback(loop.stop)
        loop.start()

    def test_stop_before(self) -> None:
        """
        A loop that was stopped before it starts does not wait.
        """
        loop = IOLoop()
        self.addCleanup(loop.close)
        loop.stop()
        loop.start()
