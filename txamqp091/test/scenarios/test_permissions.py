# -*- test-case-name: txamqp091.test.scenarios.test_permissions -*-
"""
Scenarios: logging in, and what a user may do.
"""

from __future__ import annotations

from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import (
    AuthenticationFailed,
    Closed,
    VhostAccessRefused,
)
from txamqp091.test.support.scenarios import Scenario, every_peer


@every_peer
class LoginScenarios(Scenario):
    """
    Who comes in.
    """

    async def test_password(self) -> None:
        """
        403: not with a wrong password.
        """
        with self.assertRaises(AuthenticationFailed) as caught:
            await self.connect("guest", "wrong")
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertEqual(error.reply_code, 403)
        self.assertIn(
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
            "For details see the broker logfile.",
            error.reply_text,
        )

    async def test_user(self) -> None:
        """
        403: not as somebody who does not exist; nothing else is said.
        """
        with self.assertRaises(AuthenticationFailed) as caught:
            await self.connect("nobody", "secret")
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertIn("mechanism PLAIN", error.reply_text)

    async def test_vhost(self) -> None:
        """
        530: not to a virtual host that does not exist.
        """
        with self.assertRaises(VhostAccessRefused) as caught:
            await self.connect(virtual_host="nowhere")
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertEqual(error.reply_code, 530)
        self.assertIn("NOT_ALLOWED - vhost nowhere not found", error.reply_text)

    async def test_no_permissions(self) -> None:
        """
        530: nor to one in which the user has no permissions.
        """
        user = await self.user("", "", "")
        with self.assertRaises(VhostAccessRefused) as caught:
            await self.connect(user, "secret")
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertIn(
            f"NOT_ALLOWED - access to vhost '{self.vhost}' refused for user '{user}'",
            error.reply_text,
        )

    async def test_own_virtual_host(self) -> None:
        """
        What is in one virtual host is not in another.
        """
        other = f"{self.vhost}-other"
        self.peer.add_vhost(other)
        channel = await self.channel()
        queue = await self.queue(channel)
        elsewhere = await (await self.connect(virtual_host=other)).open_channel()
        call = elsewhere.queue_declare(queue, passive=True)
        text = f"no queue '{queue}' in vhost '{other}'"
        await self.channel_refused(elsewhere, call, 404, "queue.declare", text)

    async def test_capabilities(self) -> None:
        """
        The broker says what it can do.
        """
        connection = await self.connect()
        capabilities = connection.server_properties["capabilities"]
        for each in (
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ):
            self.assertIs(capabilities[each], True, each)


@every_peer
class PermissionScenarios(Scenario):
    """
    What a user may do: configure, write and read, by the names of what is there.
    """

    async def as_user(self, *permissions: str) -> tuple[Channel, str]:
        """
        A channel of a user with these permissions.
        """
        user = await self.user(*permissions)
        connection = await self.connect(user, "secret")
        channel = await connection.open_channel()
        await channel.confirm_select()
        return channel, user

    async def refuses(
        self,
        channel: Channel,
        call: Any,
        operation: str,
        permission: str,
        resource: str,
        user: str,
    ) -> None:
        """
        See 403; since 4.3 the broker names the permission.
        """
        text = self.by_version(
            {
                "3.10": f"ACCESS_REFUSED - access to {resource} in vhost "
                f"'{self.vhost}' refused for user '{user}'",
                "4.3": f"ACCESS_REFUSED - {permission} access to {resource} in vhost "
                f"'{self.vhost}' refused for user '{user}'",
            }
        )
        await self.channel_refused(channel, call, 403, operation, text)

    async def test_allowed(self) -> None:
        """
        A name that the expression finds is allowed.
        """
        channel, _ = await self.as_user("^queue-", "^(queue-|amq.default$)", "^queue-")
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])

    async def test_declare_queue(self) -> None:
        """
        403: to declare a queue is to configure it.
        """
        channel, user = await self.as_user("^mine", ".*", ".*")
        name = self.name()
        call = channel.queue_declare(name)
        await self.refuses(
            channel, call, "queue.declare", "configure", f"queue '{name}'", user
        )

    async def test_declare_exchange(self) -> None:
        """
        403: so it is with an exchange.
        """
        channel, user = await self.as_user("^mine", ".*", ".*")
        name = self.name("exchange")
        call = channel.exchange_declare(name)
        await self.refuses(
            channel, call, "exchange.declare", "configure", f"exchange '{name}'", user
        )

    async def test_delete(self) -> None:
        """
        403: to delete one is, too.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user("^mine", ".*", ".*")
        call = channel.queue_delete(queue)
        await self.refuses(
            channel, call, "queue.delete", "configure", f"queue '{queue}'", user
        )

    async def test_ask(self) -> None:
        """
        Who may do nothing to a queue may still ask for it, but not with 4.3.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user("^mine", "^mine", "^mine")
        call = channel.queue_declare(queue, passive=True)
        if self.by_version({"3.10": True, "4.3": False}):
            self.assertEqual((await call).queue, queue)
        else:
            await self.refuses(
                channel, call, "queue.declare", "configure", f"queue '{queue}'", user
            )

    async def test_publish(self) -> None:
        """
        403: to publish is to write to the exchange.
        """
        channel, user = await self.as_user(".*", "^mine", ".*")
        call = channel.basic_publish("amq.direct", "", "x")
        await self.refuses(
            channel, call, "basic.publish", "write", "exchange 'amq.direct'", user
        )

    async def test_publish_to_default(self) -> None:
        """
        403: the name of the default exchange is ``amq.default``, there.
        """
        channel, user = await self.as_user(".*", "^mine", ".*")
        call = channel.basic_publish("", "q", "x")
        await self.refuses(
            channel, call, "basic.publish", "write", "exchange 'amq.default'", user
        )

    async def test_consume(self) -> None:
        """
        403: to consume is to read the queue.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user(".*", ".*", "^mine")
        call = channel.consume(queue)
        await self.refuses(
            channel, call, "basic.consume", "read", f"queue '{queue}'", user
        )

    async def test_get(self) -> None:
        """
        403: so it is to fetch.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user(".*", ".*", "^mine")
        call = channel.basic_get(queue)
        await self.refuses(channel, call, "basic.get", "read", f"queue '{queue}'", user)

    async def test_purge(self) -> None:
        """
        403: and to purge.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user(".*", ".*", "^mine")
        call = channel.queue_purge(queue)
        await self.refuses(
            channel, call, "queue.purge", "read", f"queue '{queue}'", user
        )

    async def test_bind_queue(self) -> None:
        """
        403: to bind is to write to the queue...
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user(".*", "^mine", ".*")
        call = channel.queue_bind(queue, "amq.direct", "k")
        await self.refuses(
            channel, call, "queue.bind", "write", f"queue '{queue}'", user
        )

    async def test_bind_exchange(self) -> None:
        """
        403: ... and to read the exchange.
        """
        queue = await self.durable_queue(await self.channel())
        channel, user = await self.as_user(".*", ".*", "^mine")
        call = channel.queue_bind(queue, "amq.direct", "k")
        await self.refuses(
            channel, call, "queue.bind", "read", "exchange 'amq.direct'", user
        )

    async def test_dead_letters(self) -> None:
        """
        403: to have dead letters go to an exchange is to write to it.
        """
        channel, user = await self.as_user(".*", "^mine", ".*")
        name = self.name()
        call = channel.queue_declare(
            name, arguments={"x-dead-letter-exchange": "amq.fanout"}
        )
        await self.refuses(
            channel, call, "queue.declare", "write", "exchange 'amq.fanout'", user
        )

    async def test_alternate(self) -> None:
        """
        403: so is to have an alternate exchange.
        """
        channel, user = await self.as_user(".*", "^exchange-", ".*")
        name = self.name("exchange")
        call = channel.exchange_declare(
            name, arguments={"alternate-exchange": "amq.fanout"}
        )
        await self.refuses(
            channel, call, "exchange.declare", "write", "exchange 'amq.fanout'", user
        )
