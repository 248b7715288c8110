# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
Connections of programs without a loop: calls that wait, their limits, and their ends.
Deliveries are in `txamqp091.test.unit.adapters.test_blocking_consuming`.
"""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from traceback import walk_tb
from typing import Any
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    globalLogPublisher,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091.adapters._driver import ThreadDriver
from txamqp091.adapters.blocking import (
    BlockingChannel,
    BlockingConnection,
    in_threads,
)
from txamqp091.errors import (
    AuthenticationFailed,
    Closed,
    ConnectFailed,
    ConnectionLost,
    HeartbeatTimeout,
    InvalidURI,
    LocalProtocolError,
    Nacked,
    NotFound,
    PreconditionFailed,
    Returned,
    TLSFailed,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.chaos import Direction
from txamqp091.test.support.processes import HOST, free_ports
from txamqp091.test.support.served import (
    CHECKOUT,
    BlockingTestCase,
    cut_at,
    every_served,
)
from txamqp091.wire import spec


class JobTimeout(Exception):
    """
    What a signal handler raises.
    """


def never() -> Deferred[None]:
    """
    What is asked for, and not answered.
    """
    return Deferred()


def wait_for_ever(connection: BlockingConnection) -> None:
    """
    Ask for that.
    """
    connection.ask(never)


def closing(connection: BlockingConnection) -> Callable[[object], None]:
    """
    A function that refers to a connection.
    """
    return lambda _: connection.close()


@every_served
class BlockingTests(BlockingTestCase):
    """
    Programs without a loop talk to a broker.
    """

    def test_verbs(self) -> None:
        """
        A verb returns the broker's answer.
        """
        channel, queue = self.channel_and_queue()
        channel.exchange_declare("amq.direct", passive=True)
        channel.queue_bind(queue, "amq.direct", "key")
        channel.basic_publish("amq.direct", "key", "x")
        channel.queue_unbind(queue, "amq.direct", "key")
        declared = channel.queue_declare(queue, passive=True)
        self.assertEqual((declared.queue, declared.message_count), (queue, 1))
        self.assertEqual(channel.queue_purge(queue).message_count, 1)
        self.assertEqual(channel.number, 1)

    def test_confirms(self) -> None:
        """
        With confirms, publishing returns when the broker has the message, and raises
        if it has not.
        """
        channel, queue = self.channel_and_queue()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"x", mandatory=True)
        self.expect_depth(channel, queue, 1)
        with self.assertRaises(Returned) as returned:
            channel.basic_publish("", queue + "-no", b"y", mandatory=True)
        message = returned.exception.message
        assert isinstance(message, Message)
        self.assertEqual(message.body, b"y")
        full = self.queue_name()
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(full, exclusive=True, arguments=arguments)
        channel.basic_publish("", full, b"x")
        with self.assertRaises(Nacked):
            channel.basic_publish("", full, b"y")

    def test_publish_many(self) -> None:
        """
        Many messages are published at once.
        """
        channel, queue = self.channel_and_queue()
        channel.confirm_delivery()
        channel.publish_many(Message("", queue, str(n)) for n in range(3000))
        self.expect_depth(channel, queue, 3000)

    def test_large_message(self) -> None:
        """
        A message that no buffer takes at once gets through, both ways.
        """
        channel, queue = self.channel_and_queue()
        body = bytes(range(256)) * 32768
        channel.basic_publish("", queue, body)
        delivery = channel.basic_get(queue, auto_ack=True)
        assert delivery is not None
        self.assertEqual(delivery.body, body)

    def test_get(self) -> None:
        """
        One message can be fetched, and nothing of no messages.
        """
        channel, queue = self.channel_and_queue()
        self.assertIsNone(channel.basic_get(queue))
        channel.basic_publish("", queue, "x")
        delivery = channel.basic_get(queue)
        assert delivery is not None
        self.assertEqual(delivery.body, b"x")
        channel.basic_ack(delivery.delivery_tag)

    def test_observe_returns(self) -> None:
        """
        Without confirms, messages that come back are given to a function.
        """
        channel, queue = self.channel_and_queue()
        returned: list[Message] = []
        channel.observe_returns(returned.append)
        channel.basic_publish("", queue + "-no", b"x", mandatory=True)
        channel.queue_declare(queue, passive=True)
        self.assertEqual(returned, [])
        channel.connection.process_data_events(60)
        self.assertEqual([each.body for each in returned], [b"x"])

    def test_refused(self) -> None:
        """
        A refusal is raised by the call that it is for, and by no other; the connection
        lives on.
        """
        channel, queue = self.channel_and_queue()
        connection = channel.connection
        with self.assertRaises(NotFound):
            channel.queue_declare(queue + "-no", passive=True)
        self.assertFalse(channel.is_open)
        connection.process_data_events(0.05)
        connection.sleep(0.01)
        with connection.channel() as other:
            other.queue_declare(queue, passive=True)
        # Who uses the channel still is told why that cannot be.
        with self.assertRaises(NotFound):
            channel.basic_publish("", queue, "x")
        connection.process_data_events()

    def test_refused_without_a_call(self) -> None:
        """
        A channel that ends when no call waits is told of once.
        """
        channel, _ = self.channel_and_queue()
        channel.basic_ack(99)
        with self.assertRaises(PreconditionFailed):
            channel.connection.process_data_events(60)
        channel.connection.process_data_events()
        channel.connection.sleep(0.01)

    def test_settled_at_once(self) -> None:
        """
        What a delivery is answered with leaves at once, though no call follows.
        """
        channel, queue = self.channel_and_queue()
        channel.basic_publish("", queue, "x")
        delivery = channel.basic_get(queue)
        assert delivery is not None
        seen: list[type[Any] | None] = []
        write = channel.native._machine._write
        channel.native._machine._write = lambda data: seen.append(write(data))
        delivery.ack()
        self.assertEqual(len(seen), 1)
        self.assertEqual(channel.native.connection._outgoing._pieces, [])

    def test_close(self) -> None:
        """
        Closing again is harmless; what is asked of a closed connection raises.
        """
        connection = self.connection()
        self.assertTrue(connection.is_open)
        self.assertIn("product", connection.server_properties)
        channel = connection.channel()
        channel.close()
        channel.close()
        connection.close()
        connection.close()
        self.assertFalse(connection.is_open)
        for call in (
            connection.channel,
            connection.process_data_events,
            lambda: connection.sleep(1),
            lambda: channel.queue_declare("x"),
            lambda: connection.add_callback_threadsafe(print),
        ):
            with self.assertRaises(Closed):
                call()

    def test_update_secret(self) -> None:
        """
        The broker takes a new secret.
        """
        self.connection().update_secret("guest", "because")

    def test_blocked(self) -> None:
        """
        Publishing waits while the broker blocks it, as long as it may, and the program
        is told.
        """
        if self.node is None:
            return
        channel, queue = self.channel_and_queue()
        connection = channel.connection
        seen: list[str | None] = []
        connection.observe_blocked(seen.append)
        self.addCleanup(self.node.set_memory_alarm, False)
        self.node.set_memory_alarm(True)
        channel.basic_publish("", queue, "x")
        while connection.blocked is None:
            connection.sleep(0.05)
        with connection.within(0.05), self.assertRaises(TimeoutError):
            channel.basic_publish("", queue, "y")
        self.node.set_memory_alarm(False)
        connection.when_unblocked()
        connection.process_data_events()
        self.assertEqual([each is None for each in seen], [False, True])
        self.expect_depth(channel, queue, 1)

    # -- time ------------------------------------------------------------------------

    def test_time_limit(self) -> None:
        """
        A call that waits too long raises, and the channel lives on, with its answers
        in order.
        """
        proxy = self.proxy()
        connection = self.connection(self.uri_for(proxy.port))
        channel = connection.channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        proxy.hole(Direction.DOWN)
        with connection.within(0.05), self.assertRaises(TimeoutError):
            channel.queue_purge(queue)
        proxy.heal()
        self.assertEqual(channel.queue_declare(queue, passive=True).queue, queue)

    def test_heartbeats(self) -> None:
        """
        Heartbeats are answered while a call waits; and with ``background``, while the
        program is busy elsewhere.
        """
        uri = self.uri + "?heartbeat=2"
        busy = self.connection(uri, background=True)
        self.connection(uri).sleep(4.6)
        busy.channel()

    def test_timers(self) -> None:
        """
        Timers are called by whoever waits for handlers, unless they were removed.
        """
        connection = self.connection()
        called: list[str] = []
        connection.call_later(0.01, lambda: called.append("first"))
        removed = connection.call_later(0.01, lambda: called.append("removed"))
        connection.call_later(0.02, lambda: called.append("second"))
        removed.cancel()
        removed.cancel()
        time.sleep(0.03)
        self.assertEqual(called, [])
        connection.sleep(0.05)
        self.assertEqual(called, ["first", "second"])
        with self.assertRaises(TypeError):
            connection.call_later(1, None)  # type: ignore[arg-type]

    # -- the end ---------------------------------------------------------------------

    def test_link_dies_in_a_call(self) -> None:
        """
        When the link dies in the middle of a call, the call raises why, which is the
        peer's doing, and closing is no error.
        """
        for how in ("close", "reset"):
            proxy = self.proxy(on_frame=cut_at(spec.QueueDeclareOk, how))
            with self.connection(self.uri_for(proxy.port)) as connection:
                channel = connection.channel()
                with self.assertRaises(ConnectionLost) as raised:
                    channel.queue_declare(self.queue_name(), exclusive=True)
                self.assertFalse(raised.exception.by_us)
                self.assertFalse(connection.is_open)
                with self.assertRaises(ConnectionLost):
                    connection.channel()

    def test_link_dies_before_a_confirm(self) -> None:
        """
        A message whose confirm does not come raises why; a program that publishes
        without confirms learns of it soon.
        """
        proxy = self.proxy(on_frame=cut_at(spec.BasicAck))
        connection = self.connection(self.uri_for(proxy.port))
        channel, unconfirmed = connection.channel(), connection.channel()
        channel.confirm_delivery()
        with self.assertRaises(ConnectionLost):
            channel.basic_publish("", self.queue_name(), "x")
        with self.assertRaises(ConnectionLost):
            unconfirmed.basic_publish("", "any", "x")

    def test_interrupted(self) -> None:
        """
        A Ctrl-C in the middle of a call leaves a connection that was closed in order.
        """
        for where in (0, 60):  # in the call, and in a handler
            self.interrupt(f"import time\nwhere = {where}\n")

    def interrupt(self, beginning: str) -> None:
        """
        Send a Ctrl-C to a program.
        """
        program = beginning + (
            # A shell that runs the tests in the background has children ignore it.
            "import signal\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from txamqp091.adapters.blocking import BlockingConnection\n"
            f"connection = BlockingConnection({self.uri!r})\n"
            "connection.native.when_closed().addCallback(lambda _: print('closed'))\n"
            "def wait():\n"
            "    print('waiting', flush=True)\n"
            "    time.sleep(where)\n"
            "connection.call_later(0, wait)\n"
            "try:\n"
            "    connection.sleep(60)\n"
            "except KeyboardInterrupt:\n"
            "    print(connection.is_open, connection._driver.loop.stopped)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), "waiting\n")
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
        self.assertEqual((said, process.returncode), ("closed\nFalse True\n", 0))

    # -- signals ---------------------------------------------------------------------

    def interrupts(self) -> None:
        """
        Have a signal whose handler raises.
        """

        def handle(*_: object) -> None:
            raise JobTimeout

        before = signal.signal(signal.SIGUSR1, handle)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)

    def test_signal_while_waiting(self) -> None:
        """
        What a signal handler raises while a call waits ends the call, and harms
        nothing.
        """
        self.interrupts()
        for background in (False, True):
            channel, queue = self.channel_and_queue(background=background)
            main = threading.get_ident()
            for call in (
                partial(channel.connection.sleep, 60),
                channel.consume(queue).get,
                partial(wait_for_ever, channel.connection),
            ):
                timer = threading.Timer(
                    0.02, signal.pthread_kill, (main, signal.SIGUSR1)
                )
                timer.start()
                with self.assertRaises(JobTimeout):
                    call()
                timer.join()
            channel.queue_declare(queue, passive=True)

    def test_signal_at_work(self) -> None:
        """
        What a signal handler raises in the middle of the connection's work is raised by
        the call; the connection is lost, and says why.
        """
        self.interrupts()

        def interrupted(channel: BlockingChannel) -> Any:
            asked = channel.native.queue_declare("any", passive=True)
            asked.addErrback(lambda _: None)
            signal.raise_signal(signal.SIGUSR1)
            return asked

        def fail() -> None:
            raise JobTimeout

        for way in ("turn", "verb"):
            channel, _ = self.channel_and_queue()
            connection = channel.connection
            if way == "turn":  # a signal that another thread has got
                connection.native.reactor.callLater(0, fail)
                call = partial(wait_for_ever, connection)
            else:
                call = partial(connection.ask, interrupted, channel)
            with self.assertRaises(JobTimeout):
                call()
            self.assertFalse(connection.is_open)
            with self.assertRaisesRegex(ConnectionLost, "JobTimeout interrupted"):
                channel.queue_declare("any", passive=True)
            connection.close()

    def test_signal_held_back(self) -> None:
        """
        A signal that comes in the middle of the connection's work is held back until
        that is done, and harms nothing.  What had come for the call is given back.
        """
        self.interrupts()
        channel, queue = self.channel_and_queue()
        connection = channel.connection
        done: list[int] = []
        for _ in range(2):
            channel.basic_publish("", queue, "x")

        def got() -> Deferred[Delivery | None]:
            getting = channel.native.basic_get(queue)

            def came(delivery: Delivery | None) -> Delivery | None:
                signal.raise_signal(signal.SIGUSR1)
                done.append(1)
                return delivery

            return getting.addCallback(came)

        with self.assertRaises(JobTimeout):
            connection.ask(got)
        self.assertEqual(done, [1])
        self.expect_depth(channel, queue, 2)
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, ()), set())

    def test_signal_stops(self) -> None:
        """
        A signal handler may end consuming, close the connection, or have that done, and
        `start_consuming` returns then.
        """
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        main = threading.get_ident()
        for background in (False, True):
            for way in ("stop", "close", "later", "post"):
                uri = self.uri + "?heartbeat=0"  # no timer ends the wait
                connection = self.connection(uri, background=background)
                channel = connection.channel()
                queue = self.queue_name()
                channel.queue_declare(queue, exclusive=True)
                channel.basic_consume(queue, lambda _: None)
                stop = channel.stop_consuming
                ways: dict[str, Callable[[], object]] = {
                    "stop": stop,
                    "close": connection.close,
                    "later": partial(connection.call_later, 0, stop),
                    "post": partial(connection.add_callback_threadsafe, stop),
                }

                def handle(*_: object, call: Callable[[], object] = ways[way]) -> None:
                    call()

                signal.signal(signal.SIGUSR1, handle)
                timer = threading.Timer(
                    0.05, signal.pthread_kill, (main, signal.SIGUSR1)
                )
                timer.start()
                channel.start_consuming()
                timer.join()

    def test_background_work_fails(self) -> None:
        """
        With ``background``, what fails in the connection's work is logged, and ends the
        calls that wait.
        """
        channel, _ = self.channel_and_queue(background=True)
        connection = channel.connection

        def fail() -> None:
            raise JobTimeout

        connection.native.reactor.callFromThread(fail)  # type: ignore[attr-defined]
        with self.assertRaisesRegex(ConnectionLost, "JobTimeout interrupted"):
            connection.ask(never)
        self.assertEqual(len(self.flushLoggedErrors(JobTimeout)), 1)

    def test_own_thread(self) -> None:
        """
        With ``background``, what the connection's own thread calls cannot wait.
        """
        channel, queue = self.channel_and_queue(background=True)
        outcome: list[BaseException] = []
        done = threading.Event()

        def called(_: object) -> None:
            for call in (
                partial(channel.queue_declare, queue),
                partial(channel.connection.sleep, 1),
                partial(channel.connection.call_later, 1, print),
            ):
                try:
                    call()
                except LocalProtocolError as error:
                    outcome.append(error)
            done.set()

        channel.threadsafe.queue_purge(queue).add_done_callback(called)
        self.assertTrue(done.wait(60))
        self.assertEqual(len(outcome), 3)
        self.assertIn("own thread", str(outcome[0]))

    def test_background_warns(self) -> None:
        """
        With ``background``, a program may make no call for long: the end of a channel,
        and of the connection, is logged once.
        """
        warned = self.catch_log()
        proxy = self.proxy()
        connection = self.connection(self.uri_for(proxy.port), background=True)
        channel = connection.channel()
        other = connection.channel()
        channel.basic_ack(99)
        connection.wait_until(lambda: warned, 60)
        self.assertIn("PRECONDITION_FAILED", warned[0])
        self.assertIn("BlockingChannel", warned[0])
        proxy.reset()
        connection.wait_until(lambda: len(warned) > 1, 60)
        self.assertIn("connection was lost", warned[1])
        other.connection.close()
        self.assertEqual(len(warned), 2)

    def catch_log(self) -> list[str]:
        """
        The texts of the warnings that are logged from now on.
        """
        texts: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is LogLevel.warn:
                texts.append(eventAsText(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return texts

    # -- what is kept ------------------------------------------------------------------

    def test_forgotten(self) -> None:
        """
        A connection that the program has forgotten is collected, whatever it was used
        for; a warning says so, and the thread of its loop ends.
        """
        for background in (False, True):
            connection = BlockingConnection(self.uri, background=background)
            channel = connection.channel()
            queue = self.queue_name()
            channel.queue_declare(queue, exclusive=True)
            channel.basic_consume(queue, closing(connection))
            channel.basic_publish("", queue, "x")
            connection.observe_blocked(closing(connection))
            channel.observe_returns(closing(connection))
            connection.call_later(60, connection.close)
            deliveries = channel.consume(queue)
            waiting = channel.native.when_closed()
            ended: list[object] = []
            waiting.addBoth(ended.append)
            driver, it = connection._driver, ref(connection)
            del connection, channel, deliveries
            with self.assertWarnsRegex(ResourceWarning, "unclosed <BlockingConnection"):
                gc.collect()
            self.assertIsNone(it())
            if isinstance(driver, ThreadDriver):
                driver._thread.join(60)
                self.assertFalse(driver._thread.is_alive())
            self.assertTrue(driver.loop.stopped)
            self.assertEqual(len(ended), 1)
            gc.collect()

    def test_at_work_in_threads(self) -> None:
        """
        A connection that has handlers in threads, or a channel for other threads, is
        not forgotten.
        """
        channel, queue = self.channel_and_queue(background=True)
        handled = threading.Event()

        def work(delivery: Delivery) -> None:
            delivery.ack()
            handled.set()

        def begin() -> ref[BlockingConnection]:
            connection = BlockingConnection(self.uri, background=True)
            handler = in_threads(work, 1)
            self.addCleanup(handler.stop)
            connection.channel().basic_consume(queue, handler)
            return ref(connection)

        channel.queue_delete(queue)
        channel.queue_declare(queue, durable=True, auto_delete=True)
        it = begin()
        gc.collect()
        ask = channel.connection.channel().threadsafe
        ask.basic_publish("", queue, "x").result(60)
        self.assertTrue(handled.wait(60))
        connection = it()
        assert connection is not None
        connection.close()

    def test_error_keeps_no_stacks(self) -> None:
        """
        However often a call is refused, the error does not keep more stacks.
        """
        channel, queue = self.channel_and_queue()
        channel.connection.close()
        stack: list[int] = []
        calls = (
            partial(channel.basic_publish, "", queue, bytearray(1000)),
            channel.connection.channel,
            channel.connection.process_data_events,
            partial(channel.connection.add_callback_threadsafe, print),
        )
        for call in calls:
            for _ in range(1000):
                try:
                    call()
                except Closed as error:
                    stack = [1 for _ in walk_tb(error.__traceback__)]
            self.assertLess(len(stack), 8)

    # -- connecting ------------------------------------------------------------------

    def test_several(self) -> None:
        """
        Of several brokers the first that answers is taken.
        """
        [port] = free_ports(1)
        uris = [self.uri_for(port), self.uri]
        with BlockingConnection(uris) as connection:
            connection.channel()

    def test_refused_login(self) -> None:
        """
        A refusal to log in is raised.
        """
        with self.assertRaises(AuthenticationFailed):
            self.connection(self.uri.replace("guest:guest", "guest:wrong"))

    def test_background(self) -> None:
        """
        With ``background``, everything else is the same.
        """
        with self.connection(background=True) as connection:
            with connection.channel() as channel:
                queue = self.queue_name()
                channel.queue_declare(queue, exclusive=True)
                channel.confirm_delivery()
                channel.basic_publish("", queue, "x")
                delivery = channel.basic_get(queue)
                assert delivery is not None
                delivery.ack()
                self.assertEqual(delivery.body, b"x")
                with self.assertRaises(NotFound):
                    channel.queue_declare(queue + "-no", passive=True)
                connection.process_data_events(0.05)
        self.assertFalse(connection.is_open)

    def test_background_time_limit(self) -> None:
        """
        With ``background``, a call can wait too long, too.
        """
        proxy = self.proxy()
        connection = self.connection(self.uri_for(proxy.port), background=True)
        channel = connection.channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        proxy.hole(Direction.DOWN)
        with connection.within(0.05), self.assertRaises(TimeoutError):
            channel.queue_purge(queue)
        proxy.heal()
        self.assertEqual(channel.queue_declare(queue, passive=True).queue, queue)
        proxy.reset()
        with self.assertRaises(ConnectionLost):
            connection.sleep(60)
        connection.close()

    def test_other_thread(self) -> None:
        """
        Another thread that uses the connection while a call waits is told not to.
        """
        connection = self.connection()
        outcome: list[BaseException] = []

        def intrude() -> None:
            try:
                connection.channel()
            except LocalProtocolError as error:
                outcome.append(error)

        def let_in() -> None:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

        connection._driver.loop.callLater(0.01, let_in)
        while not outcome:
            connection.sleep(0.1)
        self.assertIn("threadsafe", str(outcome[0]))


@every_served
class TLSTests(BlockingTestCase):
    """
    TLS by Python's own ssl module.
    """

    def setUp(self) -> None:
        """
        The in-memory broker has no TLS.
        """
        super().setUp()
        if self.node is None:
            self.skipTest("the in-memory broker has no TLS")

    def test_connect(self) -> None:
        """
        A broker with a certificate for its host is talked to, with messages of more
        than one TLS record.
        """
        channel = self.connection(self.tls_uri).channel()
        self.talk(channel)

    def talk(self, channel: BlockingChannel) -> None:
        """
        Send messages to and fro; the small ones come faster than they are asked for.
        """
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        body = bytes(range(256)) * 8192
        channel.basic_publish("", queue, body)
        delivery = channel.basic_get(queue, auto_ack=True)
        assert delivery is not None
        self.assertEqual(delivery.body, body)
        channel.publish_many(Message("", queue, body[:2000]) for _ in range(1000))
        messages = channel.consume(queue, auto_ack=True)
        messages.get()
        channel.connection.sleep(0.1)
        for _ in range(999):
            self.assertEqual(messages.get().body, body[:2000])

    def test_wrong_name(self) -> None:
        """
        A certificate for another host is refused.
        """
        with self.assertRaises(TLSFailed):
            self.connection(self.tls_uri + "&server_name_indication=wrong.example")

    def test_no_tls(self) -> None:
        """
        A port that does not speak TLS is told of.
        """
        assert self.node is not None
        uri = self.tls_uri.replace(f":{self.node.tls_port}/", f":{self.node.port}/")
        with self.assertRaises(TLSFailed):
            self.connection(uri)


class SilenceTests(BlockingTestCase):
    """
    A broker that is not heard any more; the in-memory one will do.
    """

    def test_silence(self) -> None:
        """
        A broker that falls silent in a call is given up after two heartbeat intervals.
        """
        proxy = self.proxy()
        connection = self.connection(self.uri_for(proxy.port, "?heartbeat=1"))
        channel = connection.channel()
        proxy.hole()
        with self.assertRaises(HeartbeatTimeout):
            channel.queue_declare("any", passive=True)


class ConnectTests(SynchronousTestCase):
    """
    Connections that do not come to be.
    """

    def test_nobody_listens(self) -> None:
        """
        That no server listens is `ConnectFailed`.
        """
        [port] = free_ports(1)
        for background in (False, True):
            with self.assertRaises(ConnectFailed) as raised:
                BlockingConnection(f"amqp://{HOST}:{port}", background=background)
            self.assertIn("no server listens", str(raised.exception))

    def test_unknown_host(self) -> None:
        """
        A name that nobody knows is `ConnectFailed`.
        """

        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        self.patch(socket, "getaddrinfo", unknown)
        with self.assertRaises(ConnectFailed):
            BlockingConnection("amqp://host.invalid")

    def test_bad_parameters(self) -> None:
        """
        What cannot be understood is refused.
        """
        with self.assertRaises(InvalidURI):
            BlockingConnection("http://localhost")
        with self.assertRaises(ValueError):
            BlockingConnection([])

    def test_no_reactor(self) -> None:
        """
        Neither importing nor connecting loads a Twisted reactor, or leaves a thread.
        """
        program = (
            "import sys, threading\n"
            "from txamqp091 import ConnectionClosed\n"
            "from txamqp091.adapters.blocking import BlockingConnection\n"
            "try:\n"
            "    BlockingConnection('amqp://127.0.0.1:1')\n"
            "except ConnectionClosed:\n"
            "    print('twisted.internet.reactor' in sys.modules)\n"
            "    print('asyncio' in sys.modules, threading.active_count())\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.stdout, done.stderr), ("False\nTrue 1\n", ""))
