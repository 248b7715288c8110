# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon_tokens -*-
"""
The real daemon logs in to a real RabbitMQ by tokens, and by passwords that change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from txamqp091.test.rabbitmq.test_daemon_config import HANDLERS, ConfigTestCase
from txamqp091.test.support.integration import every_broker


@every_broker
class TokenTests(ConfigTestCase):
    """
    What to log in by, as time passes.
    """

    async def test_command(self) -> None:
        """
        A program gives the tokens, and the broker gets the next one before the last
        one expires: the connection lasts.
        """
        queue = await self.queue()
        program = 'print(\'{"access_token": "guest", "expires_in": 1}\')'
        daemon = self.configured(
            f"""
            [token]
            command = [{sys.executable!r}, "-c", {json.dumps(program)}]
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """
        )
        await daemon.when_said("Consuming from")
        await daemon.when_said("The broker has a new secret", 2)
        await self.publish(queue, ["a"])
        await daemon.when_said("done a")
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertNotIn("The connection was lost", daemon.output)

    async def test_password(self) -> None:
        """
        A password in a file is read for each login, also without a SIGHUP.
        """
        queue = await self.queue()
        user = f"user-{queue}"
        everything = ", ".join(['<<".*">>'] * 3)
        self.node.eval(
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"old">>, <<"t">>),'
            " rabbit_auth_backend_internal:set_permissions("
            f'<<"{user}">>, <<"{self.vhost}">>, {everything}, <<"t">>).'
        )
        password = Path(self.mktemp()).absolute()
        password.write_text("old\n")
        place = urlsplit(self.uri)
        host = place.netloc.rpartition("@")[2]
        daemon = self.configured(
            f"""
            password_file = "{password}"
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """,
            TXAMQP091_URI=f"amqp://{user}@{host}{place.path}",
        )
        await daemon.when_said("Consuming from")
        self.node.eval(
            "rabbit_auth_backend_internal:change_password("
            f'<<"{user}">>, <<"new">>, <<"t">>).'
        )
        password.write_text("new\n")
        self.node.close_connections(user=user)
        await daemon.when_said("is subscribed to the queue", 2)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
