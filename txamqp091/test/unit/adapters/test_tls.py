# -*- test-case-name: txamqp091.test.unit.adapters.test_tls -*-
"""
TLS on loops that are not Twisted's: who the broker has to be, and who we are.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters import aio
from txamqp091.adapters._ssl import context_for, explained, verify_names
from txamqp091.adapters.blocking import BlockingConnection
from txamqp091.errors import InvalidURI, TLSFailed
from txamqp091.parameters import (
    ConnectionParameters,
    TLSParameters,
    UnverifiedTLS,
)
from txamqp091.test.support.certificates import IMPOSTORS, Authority, Issued, impostor
from txamqp091.test.support.served import ServedTestCase


def by_asyncio(
    parameters: ConnectionParameters, ssl_context: ssl.SSLContext | None = None
) -> None:
    """
    Connect by asyncio, and say something.
    """

    async def main() -> None:
        connecting = aio.connect(parameters, ssl_context=ssl_context)
        async with await connecting as connection:
            channel = await connection.open_channel()
            await channel.queue_declare("", exclusive=True)

    asyncio.run(main())


def by_blocking(
    parameters: ConnectionParameters, ssl_context: ssl.SSLContext | None = None
) -> None:
    """
    Connect without a loop, and say something.
    """
    with BlockingConnection(parameters, ssl_context=ssl_context) as connection:
        connection.channel().queue_declare("", exclusive=True)


WAYS = (by_asyncio, by_blocking)


class TLSTests(ServedTestCase):
    """
    A broker behind TLS proves who it is.
    """

    def setUp(self) -> None:
        """
        Have an authority to trust.
        """
        super().setUp()
        self.authority = Authority()
        self.folder = self.mktemp()
        os.mkdir(self.folder)
        self.cafile = self.authority.write(self.folder)

    def served_with(
        self, issued: Issued, adjust: Callable[[ssl.SSLContext], object] = lambda _: 0
    ) -> int:
        """
        Put TLS in front of the broker, and return its port.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*issued.write(self.folder, "server"))
        adjust(context)
        return self.proxy(tls=context).port

    def parameters(
        self, port: int, tls: TLSParameters | None = None
    ) -> ConnectionParameters:
        """
        Parameters that trust the authority.
        """
        return ConnectionParameters(
            host="localhost",
            port=port,
            tls=tls or TLSParameters(cafile=self.cafile),
        )

    def refused(self, parameters: ConnectionParameters) -> list[TLSFailed]:
        """
        Why there is no connection, in each way.
        """
        errors = []
        for way in WAYS:
            with self.assertRaises(TLSFailed) as raised:
                way(parameters)
            errors.append(raised.exception)
        return errors

    def test_right_name(self) -> None:
        """
        A certificate for the host, from an authority that is trusted, will do.
        """
        port = self.served_with(self.authority.issue("localhost"))
        for way in WAYS:
            way(self.parameters(port))

    def test_own_context(self) -> None:
        """
        A program's own context does TLS: what it trusts is trusted, and what it refuses
        is refused.  The name is looked at twice, unless the context says otherwise.
        """
        right = self.served_with(self.authority.issue("localhost"))
        wrong = self.served_with(self.authority.issue("other.example"))
        trusting = ssl.create_default_context(cafile=self.cafile)
        stranger = ssl.create_default_context()
        lax = ssl.create_default_context(cafile=self.cafile)
        lax.check_hostname = False
        open_ = ssl.create_default_context()
        open_.check_hostname = False
        open_.verify_mode = ssl.CERT_NONE
        tls = TLSParameters()
        for context, port, connects in (
            (trusting, right, True),
            (trusting, wrong, False),
            (stranger, right, False),
            (lax, right, True),
            (lax, wrong, True),
            (open_, wrong, True),
        ):
            for way in WAYS:
                if connects:
                    way(self.parameters(port, tls), context)
                else:
                    with self.assertRaises(TLSFailed):
                        way(self.parameters(port, tls), context)

    def test_context_misused(self) -> None:
        """
        A context goes with TLS, and with no other source of certificates.
        """
        context = ssl.create_default_context()
        for way in WAYS:
            with self.assertRaisesRegex(InvalidURI, "amqps://"):
                way(ConnectionParameters(), context)
            with self.assertRaisesRegex(InvalidURI, "load the certificates into"):
                way(self.parameters(1), context)
            with self.assertRaisesRegex(TypeError, "ssl_context"):
                way(self.parameters(1), "context")  # type: ignore[arg-type]

    def test_server_name(self) -> None:
        """
        The certificate may be for another name, if that is asked for: one with an
        underscore, too, with a dot at its end, or in letters of its own.
        """
        for name, certified in (
            ("rabbit.example", "rabbit.example"),
            ("rabbit.example.", "rabbit.example"),
            ("my_rabbit", "my_rabbit"),
            ("straße.example", "xn--strae-oqa.example"),
        ):
            port = self.served_with(self.authority.issue(certified))
            tls = TLSParameters(cafile=self.cafile, server_name=name)
            for way in WAYS:
                way(self.parameters(port, tls))

    def test_no_name(self) -> None:
        """
        A name that no host can have is refused, whatever it is the name of.
        """
        for name in ("a..b", "2130706433", "x" * 64 + ".example", "\udce4"):
            for parameters in (
                ConnectionParameters(host=name),
                ConnectionParameters(tls=TLSParameters(server_name=name)),
            ):
                for way in WAYS:
                    with self.assertRaises(InvalidURI) as raised:
                        way(parameters)
                    self.assertIn("the host name", str(raised.exception))

    def test_impostors(self) -> None:
        """
        Others are refused.
        """
        for kind in IMPOSTORS:
            port = self.served_with(impostor(kind, self.authority))
            for error in self.refused(self.parameters(port)):
                self.assertIn("certificate", str(error), kind)

    def test_unverified(self) -> None:
        """
        With `UnverifiedTLS`, whoever answers is talked to.
        """
        port = self.served_with(impostor("self-signed", self.authority))
        for way in WAYS:
            way(self.parameters(port, UnverifiedTLS()))

    def test_client_certificate(self) -> None:
        """
        We prove who we are, if the broker asks for it.
        """

        def ask(context: ssl.SSLContext) -> None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.cafile)

        port = self.served_with(self.authority.issue("localhost"), ask)
        own = self.authority.issue(common_name="guest").write(self.folder, "own")
        tls = TLSParameters(cafile=self.cafile, certfile=own[0], keyfile=own[1])
        for way in WAYS:
            way(self.parameters(port, tls))

    def test_plain_peer(self) -> None:
        """
        A peer that does not speak TLS is told of.
        """
        for error in self.refused(self.parameters(self.port)):
            self.assertIn("TLS", str(error))


class ContextTests(SynchronousTestCase):
    """
    What parameters become.
    """

    def context(self, **settings: Any) -> ssl.SSLContext | None:
        """
        The context of some settings.
        """
        return context_for(ConnectionParameters(tls=TLSParameters(**settings)))

    def test_none(self) -> None:
        """
        Without TLS there is none.
        """
        self.assertIsNone(context_for(ConnectionParameters()))

    def test_safe(self) -> None:
        """
        By default certificates are checked, common names do not count, and old
        versions of TLS are not spoken.
        """
        context = self.context()
        assert context is not None
        self.assertTrue(context.check_hostname)
        self.assertIs(context.verify_mode, ssl.CERT_REQUIRED)
        self.assertFalse(context.hostname_checks_common_name)
        self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)

    def test_unreadable(self) -> None:
        """
        Files that are not there, or are no certificates, are named.
        """
        for settings in (
            {"cafile": "/nonexistent"},
            {"cafile": __file__},
            {"certfile": "/nonexistent", "keyfile": "/nonexistent"},
        ):
            with self.assertRaises(InvalidURI) as raised:
                self.context(**settings)
            self.assertIn(next(iter(settings.values())), str(raised.exception))

    def test_twisteds_own(self) -> None:
        """
        What only Twisted's TLS understands is refused, not passed over.
        """
        for settings in ({"trust_root": object()}, {"connection_creator": object()}):
            with self.assertRaises(InvalidURI):
                self.context(**settings)


class NamesTests(SynchronousTestCase):
    """
    The second look at whom a certificate is for.
    """

    def fits(self, name: tuple[str, str], hostname: str) -> bool:
        """
        Whether a certificate with that subjectAltName is for a host.
        """
        try:
            verify_names({"subjectAltName": (name,)}, hostname)
        except TLSFailed:
            return False
        return True

    def test_hosts(self) -> None:
        """
        Names fit whatever their case; a star is one label, and not all of a name.
        """
        for name, hostname, fits in (
            ("rabbit.example", "rabbit.example", True),
            ("Rabbit.Example", "rabbit.eXample.", True),
            ("rabbit.example", "other.example", False),
            ("*.example.org", "rabbit.example.org", True),
            ("*.example.org", "a.rabbit.example.org", False),
            ("*.example.org", "example.org", False),
            ("*.org", "example.org", False),
            ("xn--bcher-kva.example", "bücher.example", True),
            ("rabbit.example", "a" * 300, False),
        ):
            self.assertIs(self.fits(("DNS", name), hostname), fits, (name, hostname))

    def test_addresses(self) -> None:
        """
        An address fits only as an address.
        """
        self.assertTrue(self.fits(("IP Address", "127.0.0.1"), "127.0.0.1"))
        self.assertTrue(self.fits(("IP Address", "0:0:0:0:0:0:0:1"), "::1"))
        self.assertFalse(self.fits(("DNS", "127.0.0.1"), "127.0.0.1"))
        self.assertFalse(self.fits(("IP Address", "127.0.0.2"), "127.0.0.1"))
        self.assertFalse(self.fits(("IP Address", "nonsense"), "127.0.0.1"))

    def test_nobody(self) -> None:
        """
        No certificate, and one for nobody, are for no host.
        """
        for certificate in (None, {}, {"subject": ((("commonName", "localhost"),),)}):
            with self.assertRaises(TLSFailed):
                verify_names(certificate, "localhost")

    def test_words(self) -> None:
        """
        OpenSSL's errors become ours, with words for those that are known.
        """
        known = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
        self.assertIn("does not speak TLS", str(explained(known)))
        unknown = ssl.SSLError(1, "odd")
        self.assertIn("odd", str(explained(unknown)))
        self.assertIs(explained(unknown).__cause__, unknown)
