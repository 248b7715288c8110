# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon_recovery -*-
"""
What a daemon that has worked survives: refused logins, limits, certificates.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

from twisted.internet.task import deferLater

from txamqp091.test.rabbitmq.test_daemon_config import HANDLERS, ConfigTestCase
from txamqp091.test.support.daemons import DaemonProcess
from txamqp091.test.support.integration import every_broker, in_thread
from txamqp091.test.support.processes import free_ports

RECONNECT = """
            [reconnect]
            initial_delay = 0.1
            max_delay = 0.5
"""


@every_broker
class RecoveryTests(ConfigTestCase):
    """
    Errors that are not final for a daemon that has been connected.
    """

    def setUp(self) -> None:
        """
        Have a user of our own.
        """
        super().setUp()
        self.user = f"user-{self.vhost}-{self._testMethodName}"
        self.password = Path(self.mktemp()).absolute()
        self.password.write_text("old\n")
        host = f"{self.node.host}:{self.node.port}"
        self.uri_of_user = f"amqp://{self.user}@{host}/{self.vhost}"
        self.add_user("old")
        self.addCleanup(self.delete_user)

    def add_user(self, password: str) -> None:
        """
        Make the user, with all permissions.
        """
        everything = ", ".join(['<<".*">>'] * 3)
        self.node.eval(
            "rabbit_auth_backend_internal:add_user("
            f'<<"{self.user}">>, <<"{password}">>, <<"t">>),'
            " rabbit_auth_backend_internal:set_permissions("
            f'<<"{self.user}">>, <<"{self.vhost}">>, {everything}, <<"t">>).'
        )

    def delete_user(self) -> None:
        """
        Remove the user, if it is there.
        """
        self.node.eval(
            f'catch rabbit_auth_backend_internal:delete_user(<<"{self.user}">>, '
            '<<"t">>).'
        )

    def disconnect(self) -> None:
        """
        Close the connections of the user.
        """
        self.node.close_connections(user=self.user)

    async def start(self, uri: str = "", **more: str) -> tuple[DaemonProcess, int]:
        """
        A daemon that is ready, and the port of its admin site.
        """
        queue = await self.queue()
        [port] = free_ports(1)
        daemon = self.configured(
            f"""
            admin = "tcp:{port}:interface=127.0.0.1"
            password_file = "{self.password}"
            {RECONNECT}
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """,
            TXAMQP091_URI=uri or self.uri_of_user,
            **more,
        )
        await self.ready(port, 200)
        return daemon, port

    async def problem(self, port: int, text: str) -> None:
        """
        Wait until ``/ready`` gives a reason.
        """
        from twisted.internet import reactor

        while True:
            page = await self.ready(port, 503)
            if any(text in each for each in page["problems"]):
                return
            await deferLater(reactor, 0.05)

    async def test_user_away(self) -> None:
        """
        The user is deleted, and made again with another password.
        """
        daemon, port = await self.start()
        self.delete_user()
        self.disconnect()
        await self.problem(port, "not connected: 403 ACCESS_REFUSED")
        self.add_user("new")
        self.password.unlink()
        await daemon.when_said("Logging in with the password that was read before")
        self.password.write_text("new\n")
        await self.ready(port, 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)

    async def test_permissions(self) -> None:
        """
        The user loses the permissions for the virtual host for a while.
        """
        daemon, port = await self.start()
        arguments = f'<<"{self.user}">>, <<"{self.vhost}">>'
        self.node.eval(
            f'rabbit_auth_backend_internal:clear_permissions({arguments}, <<"t">>).'
        )
        self.disconnect()
        await self.problem(port, "not connected: 530 ")
        everything = ", ".join(['<<".*">>'] * 3)
        self.node.eval(
            "rabbit_auth_backend_internal:set_permissions("
            f'{arguments}, {everything}, <<"t">>).'
        )
        await self.ready(port, 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)

    async def test_limit(self) -> None:
        """
        A new daemon waits until the old one leaves it a connection.
        """
        old, port = await self.start()
        self.addCleanup(
            self.node.eval, f'rabbit_vhost_limit:clear(<<"{self.vhost}">>, <<"t">>).'
        )
        [other] = free_ports(1)
        # That of the test, and that of a daemon.
        self.node.eval(
            f'rabbit_vhost_limit:set(<<"{self.vhost}">>, '
            '[{<<"max-connections">>, 2}], <<"t">>).'
        )
        new = DaemonProcess(
            "--config",
            str(self.path),
            environment={
                "TXAMQP091_URI": self.uri_of_user,
                "TXAMQP091_ADMIN": f"tcp:{other}:interface=127.0.0.1",
            },
        )
        self.addCleanup(new.end)
        await self.problem(other, "limit")
        await self.ready(port, 200)
        self.assertEqual(await old.terminate(), 0, old.output)
        await self.ready(other, 200)
        self.assertEqual(await new.terminate(), 0, new.output)

    async def test_certificate(self) -> None:
        """
        The file with the certificate authority is not whole for a while.
        """
        file = Path(self.mktemp()).absolute()
        shutil.copy(self.node.ca_file, file)
        daemon, port = await self.start(
            f"amqps://{self.user}@localhost:{self.node.tls_port}/{self.vhost}"
            f"?cacertfile={quote(str(file))}"
        )
        content = file.read_bytes()
        for broken in (b"", content[: len(content) // 2]):
            file.write_bytes(broken)
            self.disconnect()
            await self.problem(port, "not connected: ")
            file.write_bytes(content)
            await self.ready(port, 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertNotIn("Traceback", daemon.output)

    async def test_no_configure(self) -> None:
        """
        A user who may not configure anything, when everything is there already: the
        daemon declares nothing, and retries all the same.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        text = f"""
            password_file = "{self.password}"
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            declare = true
            [consumers.retry]
            delays = [0.1]
            parking = "{queue}.dead"
            """
        operator = self.configured(text)
        await operator.when_said("Consuming from")
        self.assertEqual(await operator.terminate(), 0, operator.output)
        self.node.eval(
            "rabbit_auth_backend_internal:set_permissions("
            f'<<"{self.user}">>, <<"{self.vhost}">>, <<"^$">>, <<".*">>, <<".*">>, '
            '<<"t">>).'
        )
        daemon = self.configured(text, TXAMQP091_URI=self.uri_of_user)
        await daemon.when_said("Consuming from")
        await self.publish(queue, ["a"], "bad")
        dead = await self.fetch(f"{queue}.dead")
        self.assertEqual(dead.headers["x-error-tries"], 2)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)

    async def test_gives_up(self) -> None:
        """
        With ``give_up_after`` it ends in the end, with the status of the reason.
        """
        daemon, _ = await self.start(TXAMQP091_GIVE_UP_AFTER="2")
        self.delete_user()
        self.disconnect()
        self.assertEqual(await daemon.when_ended(), 77, daemon.output)
        [line] = daemon.said("Ending with exit status 77: ")
        self.assertIn("403 ACCESS_REFUSED", line)

    async def test_admin_taken(self) -> None:
        """
        The port of the admin site is taken for a moment.
        """
        import socket

        [port] = free_ports(1)
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        queue = await self.queue()
        daemon = self.configured(
            f"""
            admin = "tcp:{port}:interface=127.0.0.1"
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """
        )
        await daemon.when_said("The admin site cannot listen")
        await in_thread(taken.close)
        await self.ready(port, 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
