# -*- test-case-name: txamqp091.test.unit.adapters.test_calls_end -*-
"""
Every call of the adapters ends: with its answer, or with a typed error.

Each call there is meets each fault there is, while it waits or before.  The broker
follows a script: it answers everything until it is told to do otherwise.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters import aio, blocking
from txamqp091.adapters.threads import ThreadsafeChannel
from txamqp091.errors import AMQPError, Closed, LocalProtocolError
from txamqp091.message import Message
from txamqp091.test.support.chaos import Frame, reset_on_close
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.processes import HOST
from txamqp091.test.support.scripted import Peer, ScriptedBroker, answer
from txamqp091.wire import spec
from txamqp091.wire.method import decode_method

#: No call of these tests takes longer, by far; one that does is hanging.
LIMIT = 60.0

#: The verbs of a channel, with arguments.
VERBS: dict[str, tuple[Any, ...]] = {
    "access_request": (),
    "basic_ack": (1,),
    "basic_cancel": ("handled",),
    "basic_consume": ("q", print),
    "basic_get": ("q",),
    "basic_nack": (1,),
    "basic_publish": ("", "q", b"x"),
    "basic_qos": (0, 1),
    "basic_recover": (),
    "basic_recover_async": (),
    "basic_reject": (1,),
    "close": (),
    "confirm_select": (),
    "consume": ("q",),
    "exchange_bind": ("e", "f"),
    "exchange_declare": ("e",),
    "exchange_delete": ("e",),
    "exchange_unbind": ("e", "f"),
    "flow": (True,),
    "flush": (),
    "publish_many": ([Message("", "q", b"x")],),
    "queue_bind": ("q", "e"),
    "queue_declare": ("q",),
    "queue_delete": ("q",),
    "queue_purge": ("q",),
    "queue_unbind": ("q", "e"),
    "tx_commit": (),
    "tx_rollback": (),
    "tx_select": (),
}

#: What ends a call that the broker does not answer.
FAULTS = ["channel closed", "connection closed", "reset", "hung up"]

CLOSING = (spec.ChannelClose, spec.ConnectionClose)


def fault(peer: Peer, what: str, channel: int) -> None:
    """
    Let something happen to the client.
    """
    if what == "channel closed":
        peer.send_method(spec.ChannelClose(404, "NOT_FOUND - no such thing"), channel)
    elif what == "connection closed":
        peer.send_method(spec.ConnectionClose(320, "CONNECTION_FORCED - by us"))
    else:
        if what == "reset":
            reset_on_close(peer.sock)
        # The script's thread, which may be reading, closes it then.
        peer.sock.shutdown(socket.SHUT_RD if what == "reset" else socket.SHUT_RDWR)


class CallsTestCase(SynchronousTestCase):
    """
    A test case with a broker that stops answering.

    :ivar what: what the broker does in place of the next answer; "" is to answer, and
        "nothing" is to do nothing, but to agree to the end of a channel.
    :ivar heard: the methods that it has received.
    """

    def setUp(self) -> None:
        """
        Have the broker.
        """
        self.what = ""
        self.heard: list[object] = []
        self.peer: Peer
        broker = ScriptedBroker(self.script)
        broker.start()
        self.addCleanup(broker.stop)
        self.uri = f"amqp://{HOST}:{broker.port}"

    def script(self, peer: Peer) -> None:
        """
        Answer everything, or do something else.
        """
        peer.handshake()
        self.peer = peer
        while True:
            unit = peer.read(2 * LIMIT)
            if not isinstance(unit, Frame) or unit.method is None:
                continue
            method = decode_method(unit.payload)
            self.heard.append(method)
            if not self.what or isinstance(method, CLOSING):
                reply = answer(method)
                if reply is not None:
                    peer.send_method(reply, unit.channel)
            elif self.what != "nothing":
                what, self.what = self.what, ""
                fault(peer, what, unit.channel or 1)

    def outcome(
        self, call: Callable[[], object], meanwhile: Callable[[], object] = bool
    ) -> BaseException | None:
        """
        Make a call in a thread of its own, and tell what it raises.
        """
        outcomes: list[BaseException | None] = []

        def work() -> None:
            try:
                call()
            except BaseException as error:
                outcomes.append(error)
            else:
                outcomes.append(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        meanwhile()
        thread.join(LIMIT)
        self.assertEqual(len(outcomes), 1, "the call hangs")
        return outcomes[0]


class Blocking:
    """
    A connection, and all that can be called.
    """

    def __init__(self, uri: str, background: bool) -> None:
        self.connection = blocking.BlockingConnection(uri, background=background)
        self.channel = self.connection.channel()
        self.subscription = self.channel.basic_consume(
            "q", print, consumer_tag="handled"
        )
        self.deliveries = self.channel.consume("q", consumer_tag="iterated")
        self.timer = self.connection.call_later(LIMIT, print)
        # The last answer, so that nothing more is heard of the beginning.
        self.channel.confirm_select()

    def asks(self) -> dict[str, Callable[..., object]]:
        """
        What asks the broker for something, by name.
        """
        connection, channel = self.connection, self.channel
        verbs: dict[str, Callable[..., object]] = {
            f"Channel.{name}": partial(getattr(channel, name), *arguments)
            for name, arguments in VERBS.items()
        }
        return {
            **verbs,
            "Connection.channel": connection.channel,
            "Connection.update_secret": partial(connection.update_secret, "secret"),
            "Connection.ask": partial(connection.ask, channel.native.queue_purge, "q"),
            "Connection.close": connection.close,
            "Channel.confirm_delivery": channel.confirm_delivery,
            "Channel.stop_consuming": channel.stop_consuming,
            "Subscription.cancel": self.subscription.cancel,
            "Deliveries.cancel": self.deliveries.cancel,
        }

    def waits(self) -> dict[str, Callable[..., object]]:
        """
        What waits for anything to happen, by name.
        """
        connection = self.connection
        return {
            "Connection.process_data_events": partial(
                connection.process_data_events, None
            ),
            "Connection.sleep": partial(connection.sleep, 2 * LIMIT),
            "Connection.wait_until": partial(connection.wait_until, bool),
            "Channel.start_consuming": self.channel.start_consuming,
            "Deliveries.get": self.deliveries.get,
        }

    def others(self) -> dict[str, Callable[..., object]]:
        """
        What waits for nothing here, by name.
        """
        connection = self.connection
        return {
            "Connection.call_later": partial(connection.call_later, 1, print),
            "Connection.observe_blocked": partial(connection.observe_blocked, print),
            "Connection.when_unblocked": connection.when_unblocked,
            "Channel.observe_returns": partial(self.channel.observe_returns, print),
            "Timer.cancel": self.timer.cancel,
        }

    def all(self) -> dict[str, Callable[..., object]]:
        """
        Everything, by name.
        """
        return {**self.asks(), **self.waits(), **self.others()}


ASKS = [
    *(f"Channel.{name}" for name in VERBS), "Channel.confirm_delivery",
    "Channel.stop_consuming", "Connection.ask", "Connection.channel",
    "Connection.close", "Connection.update_secret", "Deliveries.cancel",
    "Subscription.cancel",
]  # fmt: skip

#: What does not end with a channel.
OF_CONNECTION = {
    "Connection.channel", "Connection.open_channel", "Connection.process_data_events",
    "Connection.sleep", "Connection.update_secret", "Connection.wait_until",
    "Connection.when_closed",
}  # fmt: skip

WAITS = [
    "Channel.start_consuming", "Connection.process_data_events", "Connection.sleep",
    "Connection.wait_until", "Deliveries.get",
]  # fmt: skip


class BlockingCallsTests(CallsTestCase):
    """
    The calls of a blocking connection.
    """

    background = False

    def make(self) -> Blocking:
        """
        Connect.
        """
        self.what = ""
        made = Blocking(self.uri, self.background)
        self.addCleanup(made.connection.close)
        self.heard.clear()
        return made

    def test_complete(self) -> None:
        """
        The tables have every method that is public.
        """
        made = self.make()
        self.assertEqual(
            (sorted(made.asks()), sorted(made.waits())), (sorted(ASKS), WAITS)
        )
        known = {*made.all(), "Connection.add_callback_threadsafe", "Connection.within"}
        for of in (
            blocking.BlockingChannel,
            blocking.BlockingConnection,
            blocking.Deliveries,
            blocking.Subscription,
            blocking.Timer,
        ):
            kind = of.__name__.replace("Blocking", "")
            methods = {
                f"{kind}.{name}"
                for name, _ in inspect.getmembers(of, inspect.isfunction)
                if not name.startswith("_")
            }
            self.assertEqual(methods - known, set())

    def test_faults_in_asking(self) -> None:
        """
        A call that is not answered ends with what happens to the channel, or to the
        connection.
        """
        for what in FAULTS:
            for name in ASKS:
                if what == "channel closed" and name in OF_CONNECTION:
                    continue
                made = self.make()
                self.what = what
                error = self.outcome(made.asks()[name])
                self.assertIsInstance(error, AMQPError | None, (name, what))
                made.connection.close()

    def test_faults_in_waiting(self) -> None:
        """
        A call that waits for nothing in particular ends with the connection; and with
        the channel, if that is what it is about.
        """
        for what in FAULTS:
            for name in WAITS:
                if what == "channel closed" and name in OF_CONNECTION:
                    continue
                made = self.make()
                happens = partial(fault, self.peer, what, made.channel.number)
                error = self.outcome(made.waits()[name], happens)
                self.assertIsInstance(error, AMQPError | None, (name, what))
                made.connection.close()

    def test_closed_by_another_thread(self) -> None:
        """
        A call ends when another thread closes the channel.
        """
        for name in (*ASKS, *WAITS):
            if name in OF_CONNECTION:
                continue
            made = self.make()
            self.what = "nothing"
            error = self.outcome(made.all()[name], made.channel.threadsafe.close)
            self.assertIsInstance(error, AMQPError | None, name)
            self.what = ""
            made.connection.close()

    def test_time_limit(self) -> None:
        """
        A call that is not answered ends when its time is up.
        """
        for name in ASKS:
            made = self.make()
            made.connection.timeout = 0.01
            self.what = "nothing"
            error = self.outcome(made.asks()[name])
            self.assertIsInstance(error, TimeoutError | None, name)
            made.connection.timeout = None
            self.what = ""
            self.assertTrue(name == "Connection.close" or made.connection.is_open)
            made.connection.close()

    def test_wrong_keyword(self) -> None:
        """
        A call with an argument that it does not have raises, and nothing is sent.
        """
        made = self.make()
        for name, call in made.all().items():
            error = self.outcome(partial(call, nonsense=True))
            self.assertIsInstance(error, TypeError, name)
        self.assertEqual(self.heard, [])
        self.assertTrue(made.channel.is_open)

    def test_after_close(self) -> None:
        """
        Of a connection that was closed, everything raises why, or is harmless.
        """
        made = self.make()
        made.connection.close()
        for name, call in made.all().items():
            error = self.outcome(call)
            self.assertIsInstance(error, Closed | None, name)
        with self.assertRaises(Closed):
            made.connection.add_callback_threadsafe(print)

    def test_fork(self) -> None:
        """
        In a child of the process, everything raises at once; the child can close its
        connection, and the parent's goes on.
        """
        if not hasattr(os, "fork"):
            self.skipTest("there is no fork")
        program = (
            "import os, sys\n"
            "from txamqp091.errors import LocalProtocolError\n"
            "from txamqp091.test.unit.adapters.test_calls_end import Blocking\n"
            "made = Blocking(sys.argv[1], sys.argv[2] == 'True')\n"
            "HARMLESS = ['Connection.close', 'Channel.stop_consuming']\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    for name, call in made.all().items():\n"
            "        try:\n"
            "            call()\n"
            "        except LocalProtocolError as error:\n"
            "            assert 'forked' in str(error), error\n"
            "        else:\n"
            "            assert name in HARMLESS, name\n"
            "    made = None\n"
            "    sys.stdout.flush()\n"
            "    os._exit(0)\n"
            "_, status = os.waitpid(child, 0)\n"
            "print(status, made.channel.queue_declare('q').queue)\n"
            "made.connection.close()\n"
        )
        done = subprocess.run(
            # Since 3.12, Python warns of fork in a process with threads.
            [
                *(sys.executable, "-W", "ignore::DeprecationWarning"),
                *("-c", program, self.uri, str(self.background)),
            ],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
        )
        self.assertEqual((done.stdout, done.stderr), ("0 q\n", ""))
        self.assertEqual(
            [type(each) for each in self.heard[-2:]],
            [spec.QueueDeclare, spec.ConnectionClose],
        )


class BackgroundCallsTests(BlockingCallsTests):
    """
    The same calls, while a thread turns the loop.
    """

    background = True


class SecondThreadTests(CallsTestCase):
    """
    A second thread, while the first one uses the connection.
    """

    def test_refused(self) -> None:
        """
        Every call of the second thread is refused before anything is sent.
        """
        made = Blocking(self.uri, False)
        self.addCleanup(made.connection.close)
        self.heard.clear()
        outcomes: dict[str, BaseException | None] = {}

        def intrude() -> None:
            for name, call in made.all().items():
                try:
                    call()
                except BaseException as error:
                    outcomes[name] = error
                else:
                    outcomes[name] = None
            made.connection.add_callback_threadsafe(made.channel.stop_consuming)

        thread = threading.Thread(target=intrude)
        made.connection.call_later(0, thread.start)
        made.channel.start_consuming()
        thread.join()
        for name, error in outcomes.items():
            self.assertIsInstance(error, LocalProtocolError, name)
            self.assertIn("another thread", str(error))
        self.assertEqual([type(each) for each in self.heard], [spec.BasicCancel])


class ThreadsafeCallsTests(CallsTestCase):
    """
    The verbs for other threads.
    """

    def test_complete(self) -> None:
        """
        The table has every verb.
        """
        methods = inspect.getmembers(ThreadsafeChannel, inspect.isfunction)
        self.assertEqual(
            {name for name, _ in methods if not name.startswith("_")},
            set(VERBS) - {"consume"},
        )

    def test_faults(self) -> None:
        """
        A verb that is not answered fails with what happens; one with an argument that
        it does not have fails; after the close, each fails or is harmless.
        """
        for what in (*FAULTS, "wrong keyword", "closed before"):
            for name in set(VERBS) - {"consume"}:
                self.what = ""
                made = Blocking(self.uri, True)
                ask = partial(getattr(made.channel.threadsafe, name), *VERBS[name])
                expected: Any = AMQPError | None
                if what == "wrong keyword":
                    ask, expected = partial(ask, nonsense=True), TypeError
                elif what == "closed before":
                    made.connection.close()
                else:
                    self.what = what
                error = self.outcome(partial(result_of, ask))
                self.assertIsInstance(error, expected, (name, what))
                made.connection.close()


def result_of(ask: Callable[[], Future[object]]) -> object:
    """
    Ask, and wait for the answer.
    """
    return ask().result(LIMIT)


class Aio:
    """
    A connection of asyncio, and all that can be called.
    """

    def __init__(self, connection: aio.Connection) -> None:
        self.connection = connection

    async def begin(self) -> None:
        """
        Have a channel, and consumers.
        """
        self.channel = await self.connection.open_channel()
        self.subscription = await self.channel.basic_consume(
            "q", print, consumer_tag="handled"
        )
        self.deliveries = await self.channel.consume("q", consumer_tag="iterated")
        await self.channel.confirm_select()

    def asks(self) -> dict[str, Callable[..., Awaitable[object]]]:
        """
        What asks the broker for something, by name.
        """
        connection, channel = self.connection, self.channel
        verbs: dict[str, Callable[..., Awaitable[object]]] = {
            f"Channel.{name}": partial(getattr(channel, name), *arguments)
            for name, arguments in VERBS.items()
        }
        return {
            **verbs,
            "Connection.open_channel": connection.open_channel,
            "Connection.update_secret": partial(connection.update_secret, "secret"),
            "Connection.close": connection.close,
            "Subscription.cancel": self.subscription.cancel,
            "Deliveries.cancel": self.deliveries.cancel,
        }

    def waits(self) -> dict[str, Callable[..., Awaitable[object]]]:
        """
        What waits for anything to happen, by name.
        """
        return {
            "Channel.when_closed": self.channel.when_closed,
            "Connection.when_closed": self.connection.when_closed,
            "Connection.when_unblocked": self.connection.when_unblocked,
            "Deliveries.get": self.deliveries.get,
            "Subscription.when_ended": self.subscription.when_ended,
            "Subscription.when_idle": self.subscription.when_idle,
        }


class AioCallsTests(CallsTestCase):
    """
    The calls of asyncio.
    """

    def with_each(
        self,
        scenario: Callable[
            [Aio, str, Callable[..., Awaitable[object]]], Awaitable[None]
        ],
    ) -> None:
        """
        Run a scenario with each call, and a connection of its own.
        """

        async def main() -> None:
            names: list[str] = [""]
            while names:
                self.what = ""
                made = Aio(await aio.connect(self.uri))
                await made.begin()
                self.heard.clear()
                calls = {**made.asks(), **made.waits()}
                if names == [""]:
                    names = sorted(calls)
                name = names.pop()
                async with asyncio.timeout(LIMIT):
                    await scenario(made, name, calls[name])
                self.what = ""
                await made.connection.close()

        asyncio.run(main())

    def test_complete(self) -> None:
        """
        The tables have every method that is public.
        """

        async def main() -> set[str]:
            made = Aio(await aio.connect(self.uri))
            await made.begin()
            await made.connection.close()
            return {*made.asks(), *made.waits()}

        known = asyncio.run(main())
        known |= {
            "Channel.join_acks", "Channel.observe_returns", "Connection.observe_blocked"
        }  # fmt: skip
        for of in (aio.Channel, aio.Connection, aio.Deliveries, aio.Subscription):
            methods = {
                f"{of.__name__}.{name}"
                for name, _ in inspect.getmembers(of, inspect.isfunction)
                if not name.startswith("_")
            }
            self.assertEqual(methods - known, set())

    def test_faults(self) -> None:
        """
        A call that is not answered ends with what happens to the channel, or to the
        connection.
        """
        for what in FAULTS:

            async def scenario(
                made: Aio,
                name: str,
                call: Callable[..., Awaitable[object]],
                what: str = what,
            ) -> None:
                if what == "channel closed" and name in OF_CONNECTION:
                    return
                if name in made.waits():
                    waiting = asyncio.ensure_future(call())
                    fault(self.peer, what, made.channel.number)
                else:
                    self.what = what
                    waiting = asyncio.ensure_future(call())
                try:
                    await waiting
                except AMQPError:
                    pass

            self.with_each(scenario)

    def test_closed_meanwhile(self) -> None:
        """
        A call ends when the channel is closed meanwhile.
        """

        async def scenario(
            made: Aio, name: str, call: Callable[..., Awaitable[object]]
        ) -> None:
            if name in OF_CONNECTION:
                return
            self.what = "nothing"
            waiting = asyncio.ensure_future(call())
            await made.channel.close()
            try:
                await waiting
            except AMQPError:
                pass

        self.with_each(scenario)

    def test_misuse(self) -> None:
        """
        An argument that a call does not have is refused, and nothing is sent; after
        the close, each call fails or is harmless.
        """

        async def scenario(
            made: Aio, name: str, call: Callable[..., Awaitable[object]]
        ) -> None:
            with self.assertRaises(TypeError):
                await call(nonsense=True)
            self.assertEqual(self.heard, [])
            await made.connection.close()
            try:
                await call()
            except Closed:
                pass

        self.with_each(scenario)
