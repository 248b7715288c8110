# -*- test-case-name: txamqp091.test.repository.test_examples -*-
"""
The program in ``docs/examples`` that comes with its tests: those pass, and the program
does with RabbitMQ what they say.  The demo is in `test_demo`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from shutil import rmtree
from types import ModuleType

from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.channel import Channel
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.integration import RabbitTestCase, every_broker

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
