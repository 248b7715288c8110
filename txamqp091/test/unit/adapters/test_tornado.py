# -*- test-case-name: txamqp091.test.unit.adapters.test_tornado -*-
"""
Connections on Tornado's IOLoop, by Tornado's own test case.
"""

from __future__ import annotations

import asyncio
import unittest

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import ConnectFailed, ConnectionLost
from txamqp091.test.support.served import ServedTestCase, every_served

try:
    from tornado.ioloop import IOLoop

    from txamqp091.adapters.tornado import connect

    # Not its TestCase: pytest and trial would collect that here, too.
    from txamqp091.test.support import tornado_cases
except ImportError:
    missing = "Tornado is not installed"
else:
    missing = ""


class LoopTests(SynchronousTestCase):
    """
    Which loop it is.
    """

    if missing:
        skip = missing

    def test_run_sync(self) -> None:
        """
        A program that runs its loop by ``run_sync`` is told of a link that is not
        there.
        """

        async def main() -> None:
            with self.assertRaises(ConnectFailed):
                await connect("amqp://127.0.0.1:1")

        IOLoop(make_current=False).run_sync(main)


@every_served
class TornadoTests(ServedTestCase):
    """
    All scenarios, with each broker.
    """

    def test_all(self) -> None:
        """
        Tornado's test case is content.
        """
        if missing:
            self.skipTest(missing)
        scenarios = tornado_cases.TornadoCase
        scenarios.uri = self.uri
        suite = unittest.TestSuite()
        for name in unittest.defaultTestLoader.getTestCaseNames(scenarios):
            case = scenarios(name)
            case.queue = self.queue_name()
            suite.addTest(case)
        result = unittest.TestResult()
        suite.run(result)
        self.assertEqual([text for _, text in result.errors + result.failures], [])
        self.assertEqual(result.testsRun, 4)

    def test_link_dies(self) -> None:
        """
        When the link dies in the middle of a call, the call raises why.
        """
        if missing:
            self.skipTest(missing)
        proxy = self.proxy()

        async def main() -> None:
            connection = await connect(self.uri_for(proxy.port))
            channel = await connection.open_channel()
            deliveries = await channel.consume(
                (await channel.queue_declare("", exclusive=True)).queue
            )
            asyncio.get_running_loop().call_later(0.01, proxy.reset)
            with self.assertRaises(ConnectionLost):
                await deliveries.get()

        IOLoop(make_current=False).run_sync(main)
