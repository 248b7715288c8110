# -*- test-case-name: txamqp091.test.repository.test_examples -*-
"""
The programs in ``docs/examples``: the tests of the one that comes with tests pass, and
it does with RabbitMQ what they say; and Ctrl-C ends programs in order.  The demo is in
`test_demo`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from shutil import rmtree
from types import ModuleType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.channel import Channel
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.integration import RabbitTestCase, every_broker
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker

EXAMPLES = CHECKOUT / "docs" / "examples"


def need_examples() -> None:
    """
    Go on in a checkout only.
    """
    if not EXAMPLES.exists():
        raise SkipTest("an installed package has no examples")


class ExampleTests(TestCase):
    """
    The example's own tests.
    """

    async def run_tests(self, *command: str) -> str:
        """
        Run them, as their user would.
        """
        need_examples()
        folder = tempfile.mkdtemp(prefix="txamqp091-")
        self.addCleanup(rmtree, folder)
        out, err, status = await getProcessOutputAndValue(
            sys.executable,
            ["-m", *(each.format(folder) for each in command)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            path=str(EXAMPLES),
        )
        said: str = (out + err).decode()
        self.assertEqual(status, 0, said)
        return said

    async def test_trial(self) -> None:
        """
        They pass, by trial.
        """
        out = await self.run_tests(
            "twisted.trial", "--temp-directory={}/trial", "test_orders"
        )
        self.assertIn("PASSED (successes=6)", out)

    async def test_pytest(self) -> None:
        """
        And by pytest.
        """
        out = await self.run_tests(
            "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null",
            "--rootdir={}", "test_orders.py",
        )  # fmt: skip
        self.assertIn("6 passed", out)


@every_broker
class RabbitExampleTests(RabbitTestCase):
    """
    The example, on RabbitMQ.
    """

    def orders(self) -> ModuleType:
        """
        The example's module.
        """
        need_examples()
        spec = spec_from_file_location("orders", EXAMPLES / "orders.py")
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    async def test_invoice(self) -> None:
        """
        An order becomes an invoice, and what is no order is put aside.
        """
        from twisted.internet import reactor

        service = self.orders().make_service(reactor, self.uri)
        service.startService()
        self.addCleanup(self.flushLoggedErrors, ValueError)
        self.addCleanup(service.stopService)
        await service.when_ready()
        channel = await self.open_channel()
        await self.clear(channel)
        await channel.queue_declare("bills", exclusive=True)
        await channel.queue_bind("bills", "invoices", "new")
        for queue, expected in [
            ("bills", b'{"number": 7, "total": 5}'),
            ("orders.dead", b"one pizza, please"),
        ]:
            deliveries = await channel.consume(queue)
            await channel.basic_publish("", "orders", "one pizza, please")
            await channel.basic_publish("", "orders", '{"number": 7, "prices": [2, 3]}')
            async for delivery in deliveries:
                self.assertEqual(delivery.body, expected)
                delivery.ack()
                break
            await deliveries.cancel()

    async def clear(self, channel: Channel) -> None:
        """
        Leave nothing of another run.
        """
        for queue in ("orders", "orders.dead"):
            await channel.queue_purge(queue)


class StopTests(TestCase):
    """
    Programs that run until Ctrl-C.
    """

    async def stop(self, source: str, *arguments: str) -> str:
        """
        Run a program until it has printed a line, and press Ctrl-C.

        :returns: what it has printed; it has ended well.
        """
        from twisted.internet import reactor as the_reactor

        reactor: Any = the_reactor
        broker = MemoryBroker(reactor)
        broker.declare_queue("greetings")
        broker.publish("", "greetings", b"hello")
        factory = BrokerFactory(broker, reactor)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        uri = f"amqp://guest:guest@127.0.0.1:{port.getHost().port}"
        process = _Interrupted(b"hello")
        reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-c", source, uri, *arguments],
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{EXAMPLES}"},
        )
        status = await process.ended
        said = process.said.decode()
        self.assertEqual(status, 0, said)
        await factory.when_idle()
        self.assertEqual(broker.queue("greetings").ready, 0)
        return said

    async def test_loop(self) -> None:
        """
        The documented loop ends without a traceback.
        """
        need_examples()
        said = await self.stop(
            "import sys, greetings; greetings.react(greetings.main, sys.argv[1:])"
        )
        self.assertEqual(said.splitlines()[1:], ["hello"])

    async def test_asyncio(self) -> None:
        """
        So does the consumer on asyncio, after its handler has ended.
        """
        need_examples()
        said = await self.stop("import asyncio_consumer")
        self.assertEqual(said.splitlines(), ["hello"])

    async def test_handlers(self) -> None:
        """
        So does a program with a handler that is running.
        """
        said = await self.stop(_HANDLERS)
        self.assertEqual(said.splitlines(), ["hello", "handled", "closed"])

    async def test_service(self) -> None:
        """
        So does a program with a service.
        """
        need_examples()
        said = await self.stop(_SERVICE)
        self.assertNotIn("Traceback", said)
        self.assertNotIn("rror", said)


_HANDLERS = """
import sys
from twisted.internet.task import deferLater, react
from txamqp091 import connect


async def main(reactor, uri):
    async def handle(delivery):
        print(delivery.body.decode(), flush=True)
        await deferLater(reactor, 0.3)
        delivery.ack()
        print("handled", flush=True)

    connection = await connect(reactor, uri)
    channel = await connection.open_channel()
    await channel.basic_consume("greetings", handle)
    await connection.when_closed()
    print("closed", flush=True)


react(main, sys.argv[1:])
"""

_SERVICE = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.python.log import startLogging
from txamqp091 import AMQPClientService


def handle(delivery):
    delivery.ack()
    print(delivery.body.decode(), flush=True)


def main(reactor, uri):
    startLogging(sys.stderr, setStdout=False)
    service = AMQPClientService(reactor, uri)
    service.consume("greetings", handle)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    return Deferred()


react(main, sys.argv[1:])
"""


class _Interrupted(ProcessProtocol):
    """
    A process that gets a Ctrl-C when it has said something.
    """

    def __init__(self, cue: bytes) -> None:
        self.said = b""
        self.ended: Deferred[int | None] = Deferred()
        self._cue = cue
        self._interrupted = False

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.said += data
        if self._cue in self.said and not self._interrupted:
            self._interrupted = True
            transport: Any = self.transport
            transport.signalProcess("INT")

    def processEnded(self, reason: Failure) -> None:
        status: Any = reason.value
        self.ended.callback(status.exitCode)
