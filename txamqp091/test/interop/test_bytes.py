# -*- test-case-name: txamqp091.test.interop.test_bytes -*-
"""
Clients by hand, right and wrong: what the in-memory broker says to them, and RabbitMQ.

The same octets go to both, and the same methods have to come back, with the same codes.
What is peculiar to open connections, scenarios ask too, through our client: see
`txamqp091.test.scenarios.test_violations`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from struct import pack
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.trial.unittest import TestCase

from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.test.support.raw_client import HANDSHAKE, RawClient, handshake
from txamqp091.test.support.recording import frames
from txamqp091.test.support.violations import raw
from txamqp091.testing.memory import MemoryBroker
from txamqp091.wire import spec
from txamqp091.wire.method import Method

HEADER = spec.PROTOCOL_HEADER
OPENED = HANDSHAKE + frames(1, spec.ChannelOpen())
PUBLISH = spec.BasicPublish(0, "", "nowhere")
MISSING = spec.QueueDeclare(0, "missing", True)


def tune(channel_max: int, frame_max: int) -> bytes:
    """
    A handshake with other limits.
    """
    agreed = spec.ConnectionTuneOk(2047, 131072, 0)
    other = spec.ConnectionTuneOk(channel_max, frame_max, 0)
    return HANDSHAKE.replace(frames(0, agreed), frames(0, other))


def head(size: int, class_id: int = 60, weight: int = 0) -> bytes:
    """
    A content header.
    """
    return raw(2, 1, pack(">HHQH", class_id, weight, size, 0))


#: What is said, and what comes back after the handshake: names of methods, and of
#: closes also the codes and the ids of the method that is blamed.
SAID: dict[str, tuple[bytes, list[str]]] = {
    "a handshake": (HANDSHAKE, []),
    "a channel": (OPENED, ["channel.open-ok"]),
    "AMQPLAIN": (
        handshake(
            mechanism="AMQPLAIN",
            response=b"\5LOGINS\0\0\0\5guest\x08PASSWORDS\0\0\0\5guest",
        ),
        [],
    ),
    "a wrong password": (
        handshake(response=b"\0guest\0wrong"),
        ["connection.close 403 0 0"],
    ),
    "no such virtual host": (
        handshake(vhost="missing"),
        ["connection.close 530 10 40"],
    ),
    "lower limits": (tune(5, 8192), []),
    "an early channel": (
        HANDSHAKE[: -len(frames(0, spec.ConnectionOpen("/")))]
        + frames(1, spec.ChannelOpen()),
        ["connection.close 505 0 0"],
    ),
    "any number of a channel": (
        tune(2, 131072) + frames(9, spec.ChannelOpen()),
        ["channel.open-ok"],
    ),
    "too many channels": (
        tune(2, 131072)
        + b"".join(frames(number, spec.ChannelOpen()) for number in (7, 8, 9)),
        ["channel.open-ok", "channel.open-ok", "connection.close 530 0 0"],
    ),
    "open twice": (
        OPENED + frames(1, spec.ChannelOpen()),
        ["channel.open-ok", "connection.close 504 20 10"],
    ),
    "a channel that is not open": (
        HANDSHAKE + frames(5, spec.QueueDeclare(0, "q")),
        ["connection.close 504 50 10"],
    ),
    "a body on a channel that is not open": (
        HANDSHAKE + raw(3, 5, b"x"),
        ["connection.close 505 0 0"],
    ),
    "a channel's method on channel 0": (
        HANDSHAKE + frames(0, spec.QueueDeclare(0, "q")),
        ["connection.close 504 50 10"],
    ),
    "a second handshake": (
        HANDSHAKE + frames(0, spec.ConnectionStartOk()),
        ["connection.close 504 10 11"],
    ),
    "a second virtual host": (
        HANDSHAKE + frames(0, spec.ConnectionOpen("/")),
        ["connection.close 504 10 40"],
    ),
    "an answer without a question": (
        HANDSHAKE + frames(0, spec.ConnectionCloseOk()),
        ["connection.close 504 10 51"],
    ),
    "a connection's method on a channel": (
        OPENED + frames(1, spec.ConnectionClose(200, "bye")),
        ["channel.open-ok", "connection.close 503 10 50"],
    ),
    "a server's method": (
        OPENED + frames(1, spec.QueueDeclareOk("q", 1, 2)),
        ["channel.open-ok", "connection.close 503 50 11"],
    ),
    "a channel's answer without a question": (
        OPENED + frames(1, spec.ChannelCloseOk()),
        ["channel.open-ok", "connection.close 503 20 41"],
    ),
    "a heartbeat with something in it": (
        HANDSHAKE + raw(8, 0, b"x"),
        ["connection.close 501 0 0"],
    ),
    "no such frame": (HANDSHAKE + raw(4, 0, b""), ["connection.close 501 0 0"]),
    "a wrong end": (
        OPENED + raw(1, 1, spec.BasicQos().encode(), 0),
        ["channel.open-ok", "connection.close 501 0 0"],
    ),
    "a large frame": (
        OPENED + pack(">BHI", 3, 1, 0xFFFFFFFF),
        ["channel.open-ok", "connection.close 501 0 0"],
    ),
    "a header without a publish": (
        OPENED + head(3),
        ["channel.open-ok", "connection.close 505 0 0"],
    ),
    "a method instead of a header": (
        OPENED + frames(1, PUBLISH, spec.BasicQos()),
        ["channel.open-ok", "connection.close 505 60 40"],
    ),
    "a body instead of a header": (
        OPENED + frames(1, PUBLISH) + raw(3, 1, b"abc"),
        ["channel.open-ok", "connection.close 505 60 40"],
    ),
    "a method instead of a body": (
        OPENED + frames(1, PUBLISH) + head(3) + frames(1, spec.BasicQos()),
        ["channel.open-ok", "connection.close 505 60 40"],
    ),
    "a body in pieces": (
        OPENED
        + frames(1, PUBLISH)
        + head(3)
        + raw(3, 1, b"a")
        + raw(3, 1, b"")
        + raw(3, 1, b"bc")
        + frames(1, spec.BasicQos()),
        ["channel.open-ok", "basic.qos-ok"],
    ),
    "closes that cross": (
        OPENED + frames(1, MISSING, spec.ChannelClose(200, "bye")),
        ["channel.open-ok", "channel.close 404 50 10", "channel.close-ok"],
    ),
    "open before agreeing to the close": (
        OPENED + frames(1, MISSING, spec.ChannelOpen()),
        ["channel.open-ok", "channel.close 404 50 10", "connection.close 504 20 10"],
    ),
    "flow": (
        OPENED + frames(1, spec.ChannelFlow(True), spec.ChannelFlow(False)),
        ["channel.open-ok", "channel.flow-ok", "connection.close 540 20 20"],
    ),
    "something after a close": (
        HANDSHAKE
        + frames(0, spec.ConnectionClose(200, "bye"))
        + frames(1, spec.ChannelOpen()),
        ["connection.close-ok"],
    ),
    "a new secret": (
        HANDSHAKE + frames(0, spec.ConnectionUpdateSecret(b"s", "expired")),
        ["connection.update-secret-ok"],
    ),
}  # fmt: skip

#: Those that are dropped, and told nothing; RabbitMQ takes three seconds for that.
DROPPED = {
    "an unknown mechanism": handshake(mechanism="X"),
    "half a handshake out of order": HEADER + frames(0, spec.ConnectionTuneOk()),
    "garbage": HEADER + b"\xff" * 20,
    "a wrong password, not to be told": handshake(
        response=b"\0guest\0wrong", capabilities={}
    ),
}

_HANDSHAKE = ("connection.start", "connection.tune", "connection.open-ok")


def shown(method: Method) -> str:
    """
    A method, as in `SAID`.
    """
    if isinstance(method, spec.ConnectionClose | spec.ChannelClose):
        return f"{method.name} {method.reply_code} {method.class_id} {method.method_id}"
    return method.name


class _Bytes:
    """
    The conversations.
    """

    def port(self) -> int:
        """
        Where to say it.
        """
        raise NotImplementedError

    async def dial(self) -> RawClient:
        """
        Connect.
        """
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(cast(Any, reactor), "127.0.0.1", self.port())
        connecting: Awaitable[Any] = connectProtocol(endpoint, RawClient())
        client: RawClient = await connecting
        case = cast(TestCase, self)
        case.addCleanup(cast(Any, client.transport).abortConnection)
        return client

    async def test_said(self) -> None:
        """
        What is said is answered, and nothing else is.
        """

        async def check(name: str, data: bytes, expected: list[str]) -> None:
            client = await self.dial()
            client.write(data)
            heard: list[str] = []
            last = expected[-1] if expected else "connection.open-ok"

            def complete() -> bool:
                if client.data.endswith(b"\xce"):
                    heard.extend(map(shown, client.heard()))
                enough = heard.count(last) >= max(1, expected.count(last))
                return enough or client.ended is not None

            await until(complete, 20)
            answers = [each for each in heard if each not in _HANDSHAKE]
            if last.startswith("connection.close "):
                # RabbitMQ closes at once, and its channels may be a little late.
                expected = expected[-1:]
                answers = [each for each in answers if "connection." in each]
            else:
                cast(TestCase, self).assertIn("connection.open-ok", heard, name)
            cast(TestCase, self).assertEqual((name, answers), (name, expected))

        await self.together(
            [check(name, data, expected) for name, (data, expected) in SAID.items()]
        )

    async def test_dropped(self) -> None:
        """
        Strangers that break the rules are dropped without a word.
        """

        async def check(name: str, data: bytes) -> None:
            client = await self.dial()
            client.write(data)
            await until(lambda: client.ended is not None, 20)
            heard = [each.name for each in client.heard()]
            cast(TestCase, self).assertEqual(
                (name, heard), (name, ["connection.start"])
            )

        await self.together([check(name, data) for name, data in DROPPED.items()])

    async def test_other_protocols(self) -> None:
        """
        Who speaks something else is told what is spoken here.
        """
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1\0\xc8\1\0\0"):
            client = await self.dial()
            client.write(greeting)
            await until(lambda client=client: client.ended is not None)  # type: ignore[misc]
            cast(TestCase, self).assertEqual(client.data[:4], b"AMQP")

    async def together(self, checks: list[Any]) -> None:
        """
        Do several things at once.
        """
        deferreds = [Deferred.fromCoroutine(each) for each in checks]
        for ok, result in await DeferredList(deferreds, consumeErrors=True):
            if not ok:
                result.raiseException()


class MemoryTests(_Bytes, TestCase):
    """
    With the in-memory broker.
    """

    timeout = 180.0

    def setUp(self) -> None:
        from twisted.internet import reactor

        port = MemoryBroker(reactor).listen(cast(Any, reactor))
        self.addCleanup(port.stopListening)
        self._port = cast(IPv4Address, port.getHost()).port

    def port(self) -> int:
        return self._port


@every_broker
class RabbitTests(_Bytes, RabbitTestCase):
    """
    With RabbitMQ.
    """

    def port(self) -> int:
        return self.node.port
