# -*- test-case-name: txamqp091.test.test_examples -*-
"""
The programs in ``docs/examples``, run as a user would run them.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest

from txamqp091.errors import NotFound
from txamqp091.test.integration import RabbitTestCase, every_broker

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "docs" / "examples"


class ExampleTestCase(RabbitTestCase):
    """
    A program, and what it says.
    """

    async def run_example(self, name: str, **environment: str) -> tuple[str, str, int]:
        """
        Run an example, and return what it says, on stdout and stderr, and its status.
        """
        if not EXAMPLES.exists():
            raise SkipTest("an installed package has no examples")
        out, err, status = await getProcessOutputAndValue(
            sys.executable,
            [str(EXAMPLES / name)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
        )
        return out.decode(), err.decode(), status


@every_broker
class DemoTests(ExampleTestCase):
    """
    What ``make demo`` runs.
    """

    async def test_demo(self) -> None:
        """
        The demo accounts for every message, poison ones too, on a broker that it is
        given, and leaves no queue behind.
        """
        out, err, status = await self.run_example(
            "demo.py", URI=self.uri, DEMO_SECONDS="1.5"
        )
        self.assertEqual((err, status), ("", 0), out)
        self.assertRegex(out, r"\n 1\.5 s +sent +\d{3}   confirmed +\d{3}   ")
        balance = r"(\d+) sent = (\d+) acknowledged \+ (\d) rejected \+ (\d+) left"
        found = re.search(rf"\nbalance +{balance}", out)
        assert found is not None, out
        sent, acknowledged, rejected, left = map(int, found.groups())
        self.assertEqual(sent, acknowledged + rejected + left)
        self.assertGreater(acknowledged, 100)
        self.assertGreater(rejected, 0)
        self.assertIn("exit status 0", out)
        self.assertNotIn("guest:guest", out)
        queue = re.search(r"^queue +(\S+);", out, re.MULTILINE)
        assert queue is not None
        channel = await self.open_channel()
        with self.assertRaises(NotFound):
            await channel.queue_declare(queue[1], passive=True)

    async def test_no_broker(self) -> None:
        """
        Without a RabbitMQ it says, in a sentence, what to do.
        """
        out, err, status = await self.run_example(
            "demo.py", URI="", TXAMQP091_BROKERS="/nonexistent"
        )
        self.assertEqual((out, status), ("", 1))
        self.assertTrue(err.startswith("There is no RabbitMQ on this machine: "), err)
        self.assertEqual(err.count("\n"), 1)

    async def test_no_connection(self) -> None:
        """
        A broker that cannot be reached is told in a line.
        """
        out, err, status = await self.run_example("demo.py", URI="amqp://localhost:1")
        self.assertEqual((out, status), ("", 1))
        self.assertTrue(err.startswith("The demo has failed: localhost:1: "), err)
        self.assertEqual(err.count("\n"), 1, err)
