# -*- test-case-name: txamqp091.test.unit.daemon.test_topology_diff -*-
"""
A process that compares settings with a broker, and ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from txamqp091.arguments import classic_queue
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings_loading import load
from txamqp091.daemon.topology_diff import make_comparison
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.service_case import ProcessCase

TEXT = """
[[consumers]]
queue = "orders"
handler = "m:f"
declare = true
retry = {delays = [5], parking = "parked"}
[[consumers]]
queue = "others"
handler = "m:f"
dead_letters = true
"""


class ComparisonTests(ProcessCase):
    """
    What it says, and what it ends with.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp())
        self.path.write_text(TEXT)

    def compared(self, **parameters: Any) -> tuple[Daemon, list[str]]:
        """
        Let it do its work.
        """
        lines: list[str] = []
        settings = load(str(self.path), {}, {})
        where = [ConnectionParameters(**parameters)]
        daemon = make_comparison(self.reactor, settings, where, lines.append)
        daemon.startService()
        self.passes(1)
        self.assertTrue(self.process.hasStopped)
        stopping = daemon.stopService()
        self.passes(1)
        self.successResultOf(stopping)
        return daemon, "".join(lines).splitlines()

    def test_missing(self) -> None:
        """
        What is missing is told, and is missing still.
        """
        daemon, lines = self.compared()
        self.assertEqual(daemon.status, ExitStatus.DIFFERENT)
        self.assertTrue(lines[0].startswith("queue 'others': missing ("), lines)
        missing = [each.partition(" (")[0] for each in lines if "missing" in each]
        self.assertIn("queue 'orders': missing", missing)
        self.assertIn("exchange 'orders.retry.5s': missing", missing)
        self.assertEqual(self.broker.queues(), [])

    def test_all_is_well(self) -> None:
        """
        What is as it should be, is that; a queue that others declare may be as it is.
        """
        settings = load(str(self.path), {}, {})
        client = self.service(topology=settings.topology())
        self.turn()
        self.assertReady(client)
        self.broker.declare_queue("others", durable=False)
        daemon, lines = self.compared()
        self.assertEqual(daemon.status, ExitStatus.OK)
        self.assertEqual(lines[0], "queue 'others': present")
        self.assertIn("queue 'orders': present", lines)
        self.assertFalse([each for each in lines if "missing" in each])

    def test_different(self) -> None:
        """
        What is different is told with the broker's words.
        """
        self.broker.declare_queue("orders", arguments=classic_queue())
        daemon, lines = self.compared()
        self.assertEqual(daemon.status, ExitStatus.DIFFERENT)
        [line] = [each for each in lines if each.startswith("queue 'orders': ")]
        self.assertTrue(line.startswith("queue 'orders': different ("), line)
        self.assertIn("inequivalent arg", line)

    def test_no_broker(self) -> None:
        """
        Without a broker there is nothing to say, and the status is the daemon's.
        """
        self.endpoint.refusing = True
        daemon, lines = self.compared()
        self.assertEqual((daemon.status, lines), (ExitStatus.UNAVAILABLE, []))

    def test_no_vhost(self) -> None:
        """
        So it is when the broker refuses us.
        """
        daemon, lines = self.compared(virtual_host="nowhere")
        self.assertEqual((daemon.status, lines), (ExitStatus.NO_VHOST, []))

    def test_lost(self) -> None:
        """
        Or when the connection is lost in the middle.
        """
        settings = load(str(self.path), {}, {})
        lines: list[str] = []
        daemon = make_comparison(
            self.reactor, settings, [ConnectionParameters()], lines.append
        )
        self.endpoint.delay = 0.1
        daemon.startService()
        for _ in range(100):
            if daemon.client.connection is None:
                self.clock.advance(0.1)
        self.link.cut()
        self.passes(1)
        self.assertTrue(self.process.hasStopped)
        self.assertEqual(daemon.status, ExitStatus.UNAVAILABLE)
        self.assertEqual(lines, [])
        stopping = daemon.stopService()
        self.passes(1)
        self.successResultOf(stopping)
