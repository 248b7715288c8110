# -*- test-case-name: txamqp091.test.repository.test_settings_reference -*-
"""
The documents of the daemon's settings, held true.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from unittest.mock import Mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.metrics import Metrics
from txamqp091.daemon.settings_loading import load, variables
from txamqp091.errors import NotInstalled
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.worker.counts import MessageOutcome
from txamqp091.worker.health import ConsumerHealth, Health

DOCS = CHECKOUT / "docs"
UNITS = ("txamqp091@.service", "orders@.service")
COMMAND = "python docs/settings_reference.py"


class ReferenceTests(SynchronousTestCase):
    """
    What documents say of settings.
    """

    def setUp(self) -> None:
        if not DOCS.exists():
            raise SkipTest("an installed package has no documents")

    def test_reference(self) -> None:
        """
        ``settings.rst`` ends with the reference as it is made from the settings.
        """
        done = subprocess.run(
            [sys.executable, *COMMAND.split()[1:]],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        text = (DOCS / "reference" / "settings.rst").read_text()
        self.assertTrue(text.endswith(done.stdout), f"run {COMMAND} --update")
        for each in variables():
            self.assertIn(f"``{each}``", text)

    def test_example(self) -> None:
        """
        The example's file is right.
        """
        settings = load(str(DOCS / "examples" / "consumer.toml"), {}, {})
        self.assertEqual(
            [each.label for each in settings.consumers], ["orders", "invoices"]
        )

    def test_metrics(self) -> None:
        """
        Every number is among those of ``daemon.rst``, and no other.
        """
        try:
            metrics = Metrics(lambda: Health(consumers=[consumer]))
        except NotInstalled:
            raise SkipTest("prometheus_client is not here") from None
        consumer = ConsumerHealth(name="a", queue="b", subscribed=True, idle=1.0)
        metrics.connected(Mock(bytes_received=1, bytes_sent=1, heard_at=0.0))
        metrics.histogram("a")
        text = metrics.text().decode()
        found = re.findall(
            r"^# TYPE txamqp091_(\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE
        )
        text = (
            (DOCS / "guides" / "daemon.rst")
            .read_text()
            .partition("The metrics are these")[2]
        )
        metrics_table, _, others = text.partition("The values of ``outcome``")
        named = set(re.findall(r"``(\w+)``", metrics_table))
        labels = {"consumer", "queue", "outcome", "publisher", "version"}
        named -= {"txamqp091_", "retries", "handlers", *labels}
        outcomes = others.partition("With ``tracing")[0]
        self.assertEqual(
            set(re.findall(r"^``(\w+)``", outcomes, re.MULTILINE)),
            {each.value for each in MessageOutcome},
        )
        created = {each for each in found if each.endswith("_created")}
        self.assertEqual({*found} - created, named)

    def unit(self, name: str) -> configparser.SectionProxy:
        """
        What a unit file says of its service.
        """
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(DOCS / "examples" / name)
        return unit["Service"]

    def test_unit(self) -> None:
        """
        The unit files start the daemon, give it more time to stop than it takes, and do
        not restart it where only a person can help.
        """
        for name in UNITS:
            service = self.unit(name)
            self.assertIn("twistd -n amqp-consumer --config", service["ExecStart"])
            self.assertEqual(service["Type"], "notify")
            self.assertEqual(service["ExecReload"], "/bin/kill -HUP $MAINPID")
            self.assertGreater(int(service["TimeoutStopSec"]), 30)
            self.assertIn("%i", service["StateDirectory"])
            final = {int(each) for each in service["RestartPreventExitStatus"].split()}
            self.assertEqual(
                final,
                {
                    ExitStatus.USAGE,
                    ExitStatus.NO_HANDLER,
                    ExitStatus.CONFIG,
                    ExitStatus.HALTED,
                },
            )

    def test_several(self) -> None:
        """
        Processes of one file have different admin sites and names.
        """
        environment = self.unit("orders@.service")["Environment"].split()
        known = [*variables()]
        for each in environment:
            name, _, value = each.partition("=")
            self.assertIn(name, known)
            self.assertIn("%i", value)

    def test_unit_verified(self) -> None:
        """
        systemd finds nothing wrong with the unit files.
        """
        if which("systemd-analyze") is None:
            raise SkipTest("there is no systemd here")
        for name in UNITS:
            text = (DOCS / "examples" / name).read_text()
            folder = Path(self.mktemp())
            folder.mkdir()
            unit = folder / name.replace("@", "@1")
            unit.write_text(text.replace("/srv/consumers/bin/twistd", "/bin/true"))
            done = subprocess.run(
                ["systemd-analyze", "verify", str(unit.absolute())],
                capture_output=True,
                text=True,
                timeout=120,
            )
            self.assertNotIn(unit.name, done.stderr)
