# -*- test-case-name: txamqp091.test.rabbitmq.test_connecting -*-
"""
Connecting to a real RabbitMQ: the ways to log in, and why a connection does not come
about (criteria 9, 11 and 25 to 27).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from zope.interface import implementer

from txamqp091.credentials import (
    AMQPlainCredentials,
    ExternalCredentials,
    PlainCredentials,
)
from txamqp091.errors import (
    AMQPError,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    LimitReached,
    MechanismNotOffered,
    TLSFailed,
    VhostAccessRefused,
)
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import TLSParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.chaos import Direction, Frame, Link
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.test.support.processes import free_ports
from txamqp091.wire import spec

ErrorT = TypeVar("ErrorT", bound=AMQPError)


class Recorder:
    """
    A frame hook that keeps what the client says.
    """

    def __init__(self) -> None:
        self.said: list[Frame | bytes] = []

    def __call__(self, unit: Frame | bytes, way: Direction, link: Link) -> None:
        if way is Direction.UP:
            self.said.append(unit)

    def methods(self) -> list[type[object] | None]:
        """
        The methods among it.
        """
        return [each.method for each in self.said if isinstance(each, Frame)]


class ConnectingTestCase(RabbitTestCase):
    """
    A test case about attempts to connect.
    """

    def attempt(
        self, uri: str | None = None, **changes: object
    ) -> Deferred[AMQPProtocol]:
        """
        Connect, as a Deferred.
        """
        return Deferred.fromCoroutine(self.connect(uri, **changes))

    async def refused(
        self, kind: type[ErrorT], uri: str | None = None, **changes: object
    ) -> ErrorT:
        """
        Why an attempt to connect fails.
        """
        with self.assertRaises(kind) as context:
            await self.attempt(uri, **changes)
        error = context.exception
        assert isinstance(error, kind)
        return error

    def served_as(self, name: str, recorder: Recorder) -> int:
        """
        The port of a TLS server in front of the broker, with a certificate for
        a name.
        """
        files = self.node.authority.issue(name).write(
            self.node.directory, self.queue_name()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        return self.proxy(on_frame=recorder, tls=context).port


@implementer(ICredentials)
class FetchedCredentials:
    """
    Credentials that have to be fetched from somewhere.
    """

    mechanism = "PLAIN"

    def __init__(self) -> None:
        self.asked: list[Deferred[bytes]] = []

    def respond(self, challenge: bytes | None) -> Deferred[bytes]:
        """
        Ask; the test answers.
        """
        answer: Deferred[bytes] = Deferred()
        self.asked.append(answer)
        return answer


@every_broker
class LoginTests(ConnectingTestCase):
    """
    Who we are, and by what mechanism we prove it.
    """

    def info(self, name: str, item: str) -> str:
        """
        What the broker says of the connection of that name, as Erlang writes it.
        Others may be ending while it looks.
        """
        return self.node.eval(
            f"[X] = [proplists:get_value({item}, L)"
            " || P <- rabbit_networking:connections(),"
            f" L <- [catch rabbit_reader:info(P, [client_properties, {item}])],"
            " is_list(L),"
            ' {<<"connection_name">>, _, N} <-'
            f' proplists:get_value(client_properties, L), N =:= <<"{name}">>],'
            ' binary_to_list(iolist_to_binary(io_lib:format("~0p", [X]))).'
        ).strip('"')

    async def test_plain(self) -> None:
        """
        By default it is PLAIN, in the clear, and the broker knows the connection by
        the name that we gave it.
        """
        connection = await self.connect(name="the test")
        self.assertTrue(connection.is_open)
        self.assertEqual(self.info("the test", "auth_mechanism"), '<<"PLAIN">>')
        self.assertEqual(self.info("the test", "ssl"), "false")
        self.assertEqual(self.info("the test", "user"), '<<"guest">>')
        self.assertEqual(self.info("the test", "vhost"), f'<<"{self.vhost}">>')

    async def test_client_properties(self) -> None:
        """
        The broker is told what we are and can, and what the user adds.
        """
        await self.connect(name="us", client_properties={"service": "billing"})
        told = self.info("us", "client_properties")
        for text in ("txamqp091", "billing", "consumer_cancel_notify"):
            self.assertIn(text, told)

    async def test_server_properties(self) -> None:
        """
        The broker says what it is and can.
        """
        said = (await self.connect()).server_properties
        self.assertEqual(said["product"], "RabbitMQ")
        self.assertEqual(said["version"], self.node.version)
        self.assertTrue(said["capabilities"]["publisher_confirms"])

    async def test_amqplain(self) -> None:
        """
        AMQPLAIN is understood by the broker as we write it.
        """
        await self.connect(
            name="amqplain", credentials=[AMQPlainCredentials("guest", "guest")]
        )
        self.assertEqual(self.info("amqplain", "auth_mechanism"), '<<"AMQPLAIN">>')

    async def test_tls(self) -> None:
        """
        An ``amqps`` URI with the authority's file is enough for TLS.
        """
        connection = await self.connect(self.tls_uri, name="tls")
        channel = await connection.open_channel()
        await channel.queue_declare(self.queue_name(), exclusive=True)
        self.assertEqual(self.info("tls", "ssl"), "true")

    async def test_external(self) -> None:
        """
        With EXTERNAL, the client certificate's name is the user, and no password is
        said.
        """
        certificate, key = self.client_certificate("guest")
        uri = self.tls_uri.replace("guest:guest@", "")
        await self.connect(
            f"{uri}&certfile={certificate}&keyfile={key}&auth_mechanism=external",
            name="external",
        )
        self.assertEqual(self.info("external", "auth_mechanism"), '<<"EXTERNAL">>')
        self.assertEqual(self.info("external", "user"), '<<"guest">>')

    async def test_external_unknown_user(self) -> None:
        """
        A certificate for a user that the broker does not know is refused as a wrong
        password is.
        """
        certificate, key = self.client_certificate("stranger")
        error = await self.refused(
            AuthenticationFailed,
            f"{self.tls_uri}&certfile={certificate}&keyfile={key}",
            credentials=[ExternalCredentials()],
        )
        self.assertEqual(error.reply_code, 403)
        self.assertIn("EXTERNAL", error.reply_text)

    async def test_wrong_password(self) -> None:
        """
        The broker's words for a wrong password reach the caller, with the code.
        """
        error = await self.refused(
            AuthenticationFailed, credentials=[PlainCredentials("guest", "wr0ng")]
        )
        self.assertEqual(error.reply_code, 403)
        self.assertIn("ACCESS_REFUSED", error.reply_text)
        self.assertIn(
            "Login was refused using authentication mechanism PLAIN", str(error)
        )
        self.assertNotIn("wr0ng", repr(error) + str(error))
        self.assertFalse(error.retriable)

    async def test_no_such_vhost(self) -> None:
        """
        A virtual host that does not exist is `VhostAccessRefused`, in the broker's
        words.
        """
        error = await self.refused(VhostAccessRefused, virtual_host="no-such-vhost")
        self.assertEqual(error.reply_code, 530)
        self.assertIn("no-such-vhost", error.reply_text)
        self.assertEqual(error.operation, "connection.open")

    async def test_no_access_to_vhost(self) -> None:
        """
        So is a virtual host that the user has no permissions for.
        """
        self.add_user("outsider", "pw")
        error = await self.refused(
            VhostAccessRefused, credentials=[PlainCredentials("outsider", "pw")]
        )
        self.assertEqual(error.reply_code, 530)
        self.assertIn("outsider", error.reply_text)

    async def test_limits(self) -> None:
        """
        A limit on connections or channels, of the virtual host or of the user, is
        `LimitReached`, which passes.
        """
        self.add_user("limited", "pw")
        internal, vhost = "rabbit_auth_backend_internal", "rabbit_vhost_limit"
        name = f'<<"{self.vhost}">>'
        self.node.eval(
            f'{internal}:set_permissions(<<"limited">>, {name}, <<".*">>, <<".*">>, '
            '<<".*">>, <<"test">>).'
        )
        limited = [PlainCredentials("limited", "pw")]
        limits = r'<<"{\"max-connections\": 0}">>'
        self.node.eval(f'{vhost}:parse_set({name}, {limits}, <<"test">>).')
        try:
            error = await self.refused(LimitReached, credentials=limited)
        finally:
            self.node.eval(f'{vhost}:clear({name}, <<"test">>).')
        self.assertIn("connection limit (0) is reached", error.reply_text)
        self.assertTrue(error.retriable)
        for limit in ("max-connections", "max-channels"):
            limits = rf'<<"{{\"{limit}\": 0}}">>'
            self.node.eval(
                f'{internal}:set_user_limits(<<"limited">>, {limits}, <<"test">>).'
            )
            with self.assertRaises(LimitReached):
                connection = await self.attempt(credentials=limited)
                await connection.open_channel()
            self.node.eval(
                f'{internal}:clear_user_limits(<<"limited">>, <<"{limit}">>, '
                '<<"test">>).'
            )

    def add_user(self, name: str, password: str) -> None:
        """
        Make a user without any permissions, for the rest of the test.
        """
        module = "rabbit_auth_backend_internal"
        self.node.eval(
            f'{module}:add_user(<<"{name}">>, <<"{password}">>, <<"test">>).'
        )
        self.addCleanup(
            self.node.eval, f'{module}:delete_user(<<"{name}">>, <<"test">>).'
        )

    async def test_mechanism_not_offered(self) -> None:
        """
        A mechanism that the broker does not have is an error before any secret is
        sent (criterion 27).
        """
        recorder = Recorder()
        proxy = self.proxy(on_frame=recorder)

        @implementer(ICredentials)
        class Unknown:
            mechanism = "SCRAM-SHA-256"
            respond: Callable[[bytes | None], bytes] = staticmethod(lambda _: b"secret")

        error = await self.refused(
            MechanismNotOffered, port=proxy.port, credentials=[Unknown()]
        )
        self.assertIn("PLAIN", str(error))
        self.assertNotIn(spec.ConnectionStartOk, recorder.methods())

    async def test_credentials_fetched(self) -> None:
        """
        Credentials may take their time, and are asked anew for each connection.
        """
        fetched = FetchedCredentials()
        for number in (1, 2):
            connecting = self.attempt(credentials=[fetched])
            await until(lambda number=number: len(fetched.asked) == number)  # type: ignore[misc]
            self.assertNoResult(connecting)
            fetched.asked[-1].callback(b"\0guest\0guest")
            await connecting

    async def test_credentials_unavailable(self) -> None:
        """
        Credentials that cannot be had are the reason; nothing waits for ever.
        """
        fetched = FetchedCredentials()
        connecting = self.attempt(credentials=[fetched])
        await until(lambda: bool(fetched.asked))
        fetched.asked[0].errback(OSError("no vault"))
        with self.assertRaises(AuthenticationFailed) as context:
            await connecting
        self.assertIsInstance(context.exception.__cause__, OSError)

    async def test_update_secret(self) -> None:
        """
        The broker accepts a new secret, and the connection goes on.  (Its own user
        database has no use for it.)
        """
        connection = await self.connect()
        reply = await connection.update_secret("a new one", "the old one expires")
        self.assertEqual(reply, spec.ConnectionUpdateSecretOk())
        await connection.open_channel()


@every_broker
class RefusalTests(ConnectingTestCase):
    """
    Why there is no connection.
    """

    async def test_nobody_listens(self) -> None:
        """
        A refused connection is `ConnectFailed`, with Twisted's error as its cause.
        """
        [port] = free_ports(1)
        error = await self.refused(ConnectFailed, port=port)
        self.assertIsInstance(error.__cause__, ConnectionRefusedError)
        self.assertTrue(error.retriable)

    async def test_tls_to_plain_port(self) -> None:
        """
        TLS with a port that does not speak it is told in a sentence.
        """
        error = await self.refused(TLSFailed, self.tls_uri, port=self.node.port)
        self.assertIn("TLS", str(error))

    async def test_plain_to_tls_port(self) -> None:
        """
        AMQP in the clear with a port that speaks TLS is told in a sentence.
        """
        error = await self.refused(ConnectionClosed, port=self.node.tls_port)
        self.assertIn("TLS", str(error))

    async def test_wrong_name(self) -> None:
        """
        A certificate for another name is refused, with the names in the error, and
        not a byte of AMQP is sent (criterion 25).
        """
        recorder = Recorder()
        port = self.served_as("other.example", recorder)
        error = await self.refused(TLSFailed, self.tls_uri, port=port)
        self.assertIn("other.example", str(error))
        self.assertIn("localhost", str(error))
        self.assertEqual(recorder.said, [])

    async def test_right_name(self) -> None:
        """
        The same with the right name connects: so it was the name.
        """
        recorder = Recorder()
        port = self.served_as("localhost", recorder)
        await self.connect(self.tls_uri, port=port)
        self.assertEqual(recorder.said[0], spec.PROTOCOL_HEADER)

    async def test_client_certificate_required(self) -> None:
        """
        A server that wants a client certificate, and gets none, is the reason of a
        typed failure; with one, we are in.
        """
        node = await self.private_node(tls=True, require_client_certificate=True)
        tls = TLSParameters(cafile=str(node.ca_file))
        to_node = {"port": node.tls_port, "virtual_host": "/"}
        error = await self.refused(ConnectFailed, self.tls_uri, tls=tls, **to_node)
        self.assertIn("certificate", str(error))
        certificate, key = node.authority.issue(common_name="guest").write(
            node.directory, "client"
        )
        tls = replace(tls, certfile=certificate, keyfile=key)
        await self.connect(self.tls_uri, tls=tls, **to_node)
