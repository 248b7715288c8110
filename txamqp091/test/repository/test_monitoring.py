# -*- test-case-name: txamqp091.test.repository.test_monitoring -*-
"""
The dashboard and the alert rules in ``docs/examples/monitoring``: they ask for metrics
that the daemon has.
"""

from __future__ import annotations

import json
import re
from unittest.mock import Mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.daemon.metrics import Metrics
from txamqp091.errors import NotInstalled
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.worker.counts import MessageOutcome
from txamqp091.worker.health import ConsumerHealth, Health

FOLDER = CHECKOUT / "docs" / "examples" / "monitoring"


def metrics() -> set[str]:
    """
    The daemon's metrics.
    """
    consumer = ConsumerHealth(name="a", queue="b", subscribed=True, idle=1.0)
    try:
        page = Metrics(lambda: Health(consumers=[consumer]))
    except NotInstalled:
        raise SkipTest("prometheus_client is not here") from None
    page.connected(Mock(bytes_received=1, bytes_sent=1, heard_at=0.0))
    page.histogram("a")
    text = page.text().decode()
    found = set(re.findall(r"^# TYPE (txamqp091_\w+) ", text, re.MULTILINE))
    histograms = re.findall(r"^# TYPE (txamqp091_\w+) histogram$", text, re.MULTILINE)
    found |= {f"{each}_bucket" for each in histograms}
    return found


class MonitoringTests(SynchronousTestCase):
    """
    The files fit the daemon.
    """

    def setUp(self) -> None:
        if not FOLDER.exists():
            raise SkipTest("an installed package has no examples")

    def check(self, text: str, least: int) -> None:
        """
        All metrics and outcomes of some expressions exist.
        """
        known = metrics()
        named = set(re.findall(r"txamqp091_\w+", text))
        self.assertGreaterEqual(len(named), least)
        self.assertEqual(named - known, set())
        outcomes = {each.value for each in MessageOutcome}
        for each in re.findall(r'outcome=~?\\?"([a-z|]+)\\?"', text):
            self.assertLessEqual(set(each.split("|")), outcomes)

    def test_alerts(self) -> None:
        """
        The rules use metrics and outcomes that exist, and each tells what has happened.
        """
        text = (FOLDER / "alerts.yml").read_text()
        self.check(text, 7)
        rules = text.split("- alert: ")[1:]
        self.assertGreaterEqual(len(rules), 8)
        for rule in rules:
            self.assertIn("expr: ", rule)
            self.assertIn("severity: ", rule)
            self.assertIn("summary: ", rule)

    def test_dashboard(self) -> None:
        """
        The dashboard is JSON, and its panels use metrics that exist.
        """
        dashboard = json.loads((FOLDER / "grafana.json").read_text())
        targets = [each for panel in dashboard["panels"] for each in panel["targets"]]
        self.check("\n".join(each["expr"] for each in targets), 10)
        identifiers = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(set(identifiers)), len(identifiers))
