# -*- test-case-name: txamqp091.test.repository.test_settings_reference -*-
"""
The documents of the daemon's settings, held true.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from unittest.mock import Mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.metrics import Metrics, NotInstalled
from txamqp091.daemon.reference import reference
from txamqp091.daemon.settings_loading import load, variables
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.worker.counts import MessageOutcome
from txamqp091.worker.health import ConsumerHealth, Health

DOCS = CHECKOUT / "docs"
COMMAND = "python -m txamqp091.daemon.reference"


class ReferenceTests(SynchronousTestCase):
    """
    What documents say of settings.
    """

    def setUp(self) -> None:
        if not DOCS.exists():
            raise SkipTest("an installed package has no documents")

    def test_reference(self) -> None:
        """
        ``configuration.rst`` ends with the reference as it is made from the settings.
        """
        text = (DOCS / "configuration.rst").read_text()
        self.assertTrue(text.endswith(reference()), f"make it by: {COMMAND}")
        for each in variables():
            self.assertIn(f"``{each}``", text)

    def test_command(self) -> None:
        """
        A command prints it.
        """
        done = subprocess.run(
            [sys.executable, "-m", "txamqp091.daemon.reference"],
            cwd=DOCS.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        self.assertEqual(done.stdout, reference())

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
        table = (DOCS / "daemon.rst").read_text().partition("The numbers are these")[2]
        named = set(re.findall(r"``(\w+)``", table.partition("With ``tracing")[0]))
        named -= {"txamqp091_", "outcome", "publisher", "retries", "handlers"}
        named -= {each.value for each in MessageOutcome}
        created = {each for each in found if each.endswith("_created")}
        self.assertEqual({*found} - created, named)

    def test_unit(self) -> None:
        """
        The unit file starts the daemon, gives it more time to stop than it takes, and
        does not start it again where that is of no use.
        """
        path = DOCS / "examples" / "txamqp091@.service"
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(path)
        service = unit["Service"]
        self.assertIn("amqp-consumer --config", service["ExecStart"])
        self.assertEqual(service["Type"], "notify")
        self.assertEqual(service["ExecReload"], "/bin/kill -HUP $MAINPID")
        self.assertGreater(int(service["TimeoutStopSec"]), 30)
        useless = {int(each) for each in service["RestartPreventExitStatus"].split()}
        self.assertLessEqual(useless, {int(each) for each in ExitStatus})
        self.assertIn(ExitStatus.CONFIG, useless)
        self.assertNotIn(ExitStatus.LOST, useless)

    def test_unit_verified(self) -> None:
        """
        systemd finds nothing wrong with it.
        """
        if which("systemd-analyze") is None:
            raise SkipTest("there is no systemd here")
        text = (DOCS / "examples" / "txamqp091@.service").read_text()
        folder = Path(self.mktemp())
        folder.mkdir()
        unit = folder / "txamqp091@test.service"
        unit.write_text(text.replace("/srv/consumers/bin/twistd", "/bin/true"))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit.absolute())],
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertNotIn("txamqp091@", done.stderr)
