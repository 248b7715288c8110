# -*- test-case-name: txamqp091.test.repository.test_demo -*-
"""
What ``make demo`` runs, run: on the broker in memory, on RabbitMQ, and on a terminal.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.endpoint import connect
from txamqp091.errors import NotFound
from txamqp091.message import Delivery
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.testing.memory import MemoryBroker

DEMO = CHECKOUT / "docs" / "examples" / "demo.py"
README = CHECKOUT / "README.rst"


async def run_demo(**environment: str) -> tuple[str, str, int]:
    """
    Run it, and return what it says, on stdout and stderr, and its status.
    """
    if not DEMO.exists():
        raise SkipTest("an installed package has no examples")
    out, err, status = await getProcessOutputAndValue(
        sys.executable, [str(DEMO)], env=demo_environment(**environment)
    )
    return out.decode(), err.decode(), status


def shapes(text: str) -> set[str]:
    """
    The lines of a text, without figures.
    """
    return {
        " ".join(re.sub(r"\d[\d,.]*", "0", line).split()) for line in text.splitlines()
    }


def demo_environment(**environment: str) -> dict[str, str]:
    """
    Its environment.
    """
    inherited = {**os.environ, "PYTHONPATH": str(CHECKOUT), "URI": ""}
    return inherited | environment


class DemoTestCase(TestCase):
    """
    What holds wherever the demo runs.
    """

    def check(self, out: str) -> None:
        """
        The books balance, with poison in them and a connection lost.
        """
        found = re.search(
            r"^balance +(\d+) sent = (\d+) acknowledged \+ (\d+) dead-lettered$",
            out,
            re.MULTILINE,
        )
        assert found is not None, out
        sent, acknowledged, dead = map(int, found.groups())
        self.assertEqual(sent, acknowledged + dead)
        self.assertEqual(dead, 5)
        self.assertGreater(acknowledged, 500)
        for topic in ("plug pulled, with", "back after", "draining"):
            self.assertRegex(out, rf"(?m)^ +\d+\.\d s +{topic}")
        self.assertEqual(out.count(" is no order: rejected\n"), 5)


class MemoryDemoTests(DemoTestCase):
    """
    The demo on the broker in memory.
    """

    timeout = 180.0

    async def test_plain(self) -> None:
        """
        It ends by itself, in time, with a line a second, and every order accounted for.
        """
        from twisted.internet import reactor

        began = reactor.seconds()
        out, err, status = await run_demo(DEMO_SECONDS="3")
        self.assertLess(reactor.seconds() - began, 90)
        self.assertEqual((err, status), ("", 0), out)
        self.check(out)
        self.assertIn("broker     txamqp091 MemoryBroker ", out)
        self.assertRegex(
            out,
            r"\n +\d+\.\d s    sent +\d+/s  received +\d+/s  confirmed +\d+  "
            r"in flight +\d+  p50/p95/p99 [\d.]+/[\d.]+/[\d.]+ ms\n",
        )
        self.assertNotIn("\033", out)
        self.assertNotIn("guest:guest", out)
        # What the README shows of it is what it says, but for the figures.
        shown = README.read_text().partition("    broker  ")
        sample = "".join(shown[1:]).partition("\n\n")[0]
        self.assertEqual(shapes(sample) - shapes(out) - {"..."}, set())

    async def test_thief(self) -> None:
        """
        If an order is lost, the books do not balance, and the exit status says so.
        """
        from twisted.internet import reactor as the_reactor

        reactor: Any = the_reactor
        broker = MemoryBroker(reactor)
        port: Any = broker.listen(reactor)
        self.addCleanup(port.stopListening)
        uri = f"amqp://127.0.0.1:{port.getHost().port}"
        demo = Deferred.fromCoroutine(run_demo(URI=uri, DEMO_SECONDS="4"))
        await until(lambda: bool(broker.queues()))
        thief = await connect(reactor, uri)
        channel = await thief.open_channel()
        [queue] = [name for name in broker.queues() if name.endswith(".orders")]
        stolen: list[Delivery] = []
        await channel.basic_consume(queue, stolen.append, auto_ack=True)
        await until(lambda: bool(stolen))
        await thief.close()
        out, err, status = await demo
        self.assertEqual(status, 1, err)
        self.assertRegex(out, r"\nbalance +\d+ sent IS NOT \d+ acknowledged")

    async def test_no_connection(self) -> None:
        """
        A broker that cannot be reached is told in a line.
        """
        out, err, status = await run_demo(URI="amqp://localhost:1")
        self.assertEqual((out, status), ("", 1))
        self.assertTrue(err.startswith("The demo has failed: localhost:1: "), err)
        self.assertEqual(err.count("\n"), 1, err)

    async def test_terminal(self) -> None:
        """
        On a terminal it draws a panel, again and again in its place, and ends as well.
        """
        terminal = Terminal()
        out, status = await terminal.run(DEMO_SECONDS="2", TERM="xterm")
        self.assertEqual(status, 0, out)
        self.assertGreater(out.count("\033[5F\033[J"), 1)
        plain = re.sub(r"\033\[[0-9]*[A-Za-z]", "", out)
        self.check(plain)
        self.assertRegex(plain, r"\n\[=+ *\] +\d+\.\d s\nsent +\d+ ")


class Terminal(ProcessProtocol):
    """
    The demo on a pseudo-terminal.
    """

    def __init__(self) -> None:
        self._out = b""
        self._ended: Deferred[int] = Deferred()

    async def run(self, **environment: str) -> tuple[str, int]:
        """
        Run it, and return what it says, and its status.
        """
        from twisted.internet import reactor

        if not DEMO.exists():
            raise SkipTest("an installed package has no examples")
        env = demo_environment(**environment)
        env.pop("NO_COLOR", None)
        processes = IReactorProcess(reactor)
        command = [sys.executable, str(DEMO)]
        processes.spawnProcess(self, command[0], command, env=env, usePTY=True)
        status = await self._ended
        return self._out.decode(errors="replace").replace("\r\n", "\n"), status

    def outReceived(self, data: bytes) -> None:
        """
        Twisted: it says something.
        """
        self._out += data

    def processEnded(self, reason: Failure) -> None:
        """
        Twisted: it has ended.
        """
        error = reason.value
        assert isinstance(error, ProcessDone | ProcessTerminated)
        self._ended.callback(-1 if error.exitCode is None else error.exitCode)


@every_broker
class RabbitDemoTests(DemoTestCase, RabbitTestCase):
    """
    The same demo on RabbitMQ.
    """

    async def test_demo(self) -> None:
        """
        Every order is accounted for, and nothing is left behind.
        """
        out, err, status = await run_demo(URI=self.uri, DEMO_SECONDS="3")
        self.assertEqual((err, status), ("", 0), out)
        self.check(out)
        self.assertIn("broker     RabbitMQ ", out)
        self.assertNotIn("guest:guest", out)
        queue = re.search(r"--order.\*--> (\S+) ", out)
        assert queue is not None
        for name in (queue[1], queue[1].replace(".orders", ".dead")):
            channel = await self.open_channel()
            with self.assertRaises(NotFound):
                await channel.queue_declare(name, passive=True)
        channel = await self.open_channel()
        with self.assertRaises(NotFound):
            await channel.exchange_declare(queue[1].partition(".")[0], passive=True)
