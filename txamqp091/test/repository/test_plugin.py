# -*- test-case-name: txamqp091.test.repository.test_plugin -*-
"""
The ``twistd`` plugin: found from an installed package, and costing nothing to
those who only look at the list.  The service behind it has tests of its own.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.test.support.checkout import CHECKOUT

PLUGIN = CHECKOUT / "twisted" / "plugins" / "txamqp091_plugins.py"


class PluginTests(SynchronousTestCase):
    """
    Tests for ``twisted/plugins/txamqp091_plugins.py``.
    """

    def run_elsewhere(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run a new interpreter in an empty folder, where a checkout is out of sight.
        """
        folder = Path(tempfile.mkdtemp(prefix="txamqp091-"))
        self.addCleanup(shutil.rmtree, folder)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )

    def installed_only(self) -> None:
        """
        Skip a test that needs an installed package.
        """
        if self.run_elsewhere("-c", "import txamqp091").returncode:
            raise SkipTest("txamqp091 is not installed: pip install -e .")

    def test_listed_when_installed(self) -> None:
        """
        Twisted finds the plugin of an installed package, whatever the current
        folder, and finding it imports nothing else of ours and no reactor.
        """
        self.installed_only()
        done = self.run_elsewhere(
            "-c",
            "import sys\n"
            "from twisted.application.service import IServiceMaker\n"
            "from twisted.plugin import getPlugins\n"
            "found = [(each.tapname, each.module) for each in\n"
            "    getPlugins(IServiceMaker) if each.tapname.startswith('amqp-')]\n"
            "ours = sorted(each for each in sys.modules\n"
            "    if each.partition('.')[0] == 'txamqp091')\n"
            "print(found, ours, 'twisted.internet.reactor' in sys.modules)\n",
        )
        self.assertEqual(
            done.stdout.strip(),
            "[('amqp-consumer', 'txamqp091.tap'), "
            "('amqp-broker', 'txamqp091.testing.tap')] [] False",
        )

    def test_twistd_lists_it(self) -> None:
        """
        ``twistd --help`` shows the command with its description.
        """
        self.installed_only()
        # What the console script calls: the script itself may not be on the PATH.
        done = self.run_elsewhere(
            "-c",
            "import sys\n"
            "from twisted.scripts.twistd import run\n"
            "sys.argv = ['twistd', '--help']\n"
            "run()\n",
        )
        self.assertRegex(done.stdout, r"amqp-consumer\s+Run an AMQP consumer\.")
        self.assertRegex(done.stdout, r"amqp-broker\s+Run an AMQP broker that keeps")

    def test_imports_only_service_maker(self) -> None:
        """
        The plugin file imports ``ServiceMaker`` and nothing else, since every
        ``twistd`` on the machine runs it.
        """
        if not PLUGIN.exists():
            raise SkipTest("the plugin is installed elsewhere")
        tree = ast.parse(PLUGIN.read_text())
        imported = [
            (getattr(node, "module", None), [each.name for each in node.names])
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        self.assertEqual(imported, [("twisted.application.service", ["ServiceMaker"])])
