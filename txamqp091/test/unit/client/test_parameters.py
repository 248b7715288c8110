# -*- test-case-name: txamqp091.test.unit.client.test_parameters -*-
"""
Tests for `txamqp091.parameters` and the grammar in `txamqp091._uri`.
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any
from urllib.parse import quote

import hyperlink
from hypothesis import given
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.credentials import (
    AMQPlainCredentials,
    AnonymousCredentials,
    ExternalCredentials,
    PlainCredentials,
)
from txamqp091.errors import InvalidURI, LocalProtocolError
from txamqp091.parameters import ConnectionParameters, TLSParameters, UnverifiedTLS
from txamqp091.test.unit.client.test_credentials import CANARY, verbose

from_uri = ConnectionParameters.from_uri


class SpecificationTests(SynchronousTestCase):
    """
    The examples of RabbitMQ's URI specification, appendix A, and its kin.
    """

    #: URI, user, password, host, port, virtual host.
    EXAMPLES: list[tuple[str, str, str, str, int, str]] = [
        ("amqp://user:pass@host:10000/vhost", "user", "pass", "host", 10000, "vhost"),
        (
            "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
            "usera",
            "apass",
            "hoast",
            10000,
            "v/host",
        ),
        ("amqp://", "guest", "guest", "localhost", 5672, "/"),
        ("amqp://:@/", "", "", "localhost", 5672, ""),
        ("amqp://user@", "user", "", "localhost", 5672, "/"),
        ("amqp://user:pass@", "user", "pass", "localhost", 5672, "/"),
        ("amqp://host", "guest", "guest", "host", 5672, "/"),
        ("amqp://:10000", "guest", "guest", "localhost", 10000, "/"),
        ("amqp:///vhost", "guest", "guest", "localhost", 5672, "vhost"),
        ("amqp://host/", "guest", "guest", "host", 5672, ""),
        ("amqp://host/%2f", "guest", "guest", "host", 5672, "/"),
        ("amqp://[::1]", "guest", "guest", "::1", 5672, "/"),
        ("amqps://host", "guest", "guest", "host", 5671, "/"),
        ("AMQPS://host:5672/%2F", "guest", "guest", "host", 5672, "/"),
        ("amqp://[fe80::1%25eth0]:99/v", "guest", "guest", "fe80::1%eth0", 99, "v"),
        ("amqp://u:p:q@h", "u", "p:q", "h", 5672, "/"),
        ("amqp://u:p@q@h", "u", "p@q", "h", 5672, "/"),
        ("amqp://u:%40%3A%2F%3F%23%25@h", "u", "@:/?#%", "h", 5672, "/"),
        ("amqp://ü:ä@h/ö", "ü", "ä", "h", 5672, "ö"),
        ("amqp://u:%FF@h", "u", "\udcff", "h", 5672, "/"),
        ("amqp://u:p+q@h/a+b", "u", "p+q", "h", 5672, "a+b"),
        ("amqp://u:p@h:/vh", "u", "p", "h", 5672, "vh"),
        ("amqps://u:p@[::1]:", "u", "p", "::1", 5671, "/"),
        ("amqp://127.0.0.1/?", "guest", "guest", "127.0.0.1", 5672, ""),
    ]

    def test_examples(self) -> None:
        """
        Every example means what the specification says, as text and as bytes.
        """
        for uri, username, password, host, port, vhost in self.EXAMPLES:
            for form in (uri, uri.encode("utf-8")):
                parameters = from_uri(form)
                self.assertEqual(
                    parameters.credentials, (PlainCredentials(username, password),), uri
                )
                self.assertEqual(parameters.host, host, uri)
                self.assertEqual(parameters.port_number, port, uri)
                self.assertEqual(parameters.virtual_host, vhost, uri)
                secure = uri.lower().startswith("amqps")
                self.assertEqual(parameters.tls is not None, secure)

    @given(
        st.text(),
        st.text(),
        st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]{1,5})?", fullmatch=True),
        st.integers(1, 65535),
        st.text(max_size=50),
    )
    def test_round_trip(
        self, username: str, password: str, host: str, port: int, vhost: str
    ) -> None:
        """
        Whatever is percent-escaped comes back as it was, and hyperlink cuts the
        URI in the same places.
        """
        username, password, vhost = (
            each.replace("\0", "0").encode("utf-8", "replace").decode()
            for each in (username, password, vhost)
        )
        parts = [quote(each, safe="") for each in (username, password, vhost)]
        uri = f"amqp://{parts[0]}:{parts[1]}@{host}:{port}/{parts[2]}"
        parameters = from_uri(uri)
        self.assertEqual(
            parameters.credentials, (PlainCredentials(username, password),)
        )
        self.assertEqual(
            (parameters.host, parameters.port, parameters.virtual_host),
            (host, port, vhost),
        )
        url = hyperlink.URL.from_text(uri)
        self.assertEqual(
            [url.userinfo, url.host, url.port, *url.path],
            [f"{parts[0]}:{parts[1]}", host, port, parts[2]],
        )

    @given(st.text(alphabet="amqps:/@%2fF[]?#=&,u.1 \0é", max_size=40))
    def test_any_text(self, text: str) -> None:
        """
        Any text is understood or refused by `InvalidURI`, and nothing else.
        """
        for scheme in ("", "amqp://", "amqps://"):
            try:
                from_uri(scheme + text)
            except InvalidURI as error:
                self.assertNotEqual(str(error), "")


class RefusedTests(SynchronousTestCase):
    """
    What is wrong is named, and never quoted where it may be a password.
    """

    #: The URI after its scheme, and a part of the error.  CANARY is the
    #: password, or what its owner takes for it.
    REFUSED: list[tuple[str, str]] = [
        ("u:{}%zz@h", "the password has a '%'"),
        ("u:{}%4@h", "the password has a '%'"),
        ("u%:{}@h", "the user name has a '%'"),
        ("u:{}@h/%", "the virtual host has a '%'"),
        ("u:{}@%h", "the host has a '%'"),
        ("u:{}/x@h", "'@' behind"),
        ("u:12/{}@h", "'@' behind"),
        ("u:12?{}@h", "'@' behind"),
        ("u:12?{}=1@h", "'@' behind"),
        ("u:{}#x@h", "fragment"),
        ("u:{}@h#x", "fragment"),
        ("u:{}", "the port"),
        ("u:{}@h:0", "the port"),
        ("u:{}@h:65536", "the port"),
        ("u:{}@h:+1", "the port"),
        ("u:{}@h:٣", "the port"),
        ("u:{}@h1,h2", "several hosts"),
        ("u:{}@h1:1,h2:2", "several hosts"),
        ("u:{}@::1", "brackets"),
        ("u:{}@[::1", "brackets"),
        ("u:{}@[::1]x", "brackets"),
        ("u:{}@[h]", "brackets"),
        ("u:{}@[]", "brackets"),
        ("u:{}@h%20h", "the host"),
        ("u:{}@h%2Fh", "the host"),
        ("u:{}@h%FF", "the host"),
        ("u:{}@h/a/b", "%2F"),
        ("u:{}@h//", "%2F"),
        ("u:{} @h", "space"),
        ("u:{}@h\n", "space"),
        ("u:{}@h\0", "control"),
        ("u:{}%00@h", "NUL"),
        ("u:{}@h/" + "v" * 256, "virtual_host is 256 bytes"),
    ]

    def test_grammar(self) -> None:
        """
        Malformed URIs of either scheme are refused with the part that is wrong.
        """
        for template, part in self.REFUSED:
            for scheme in ("amqp://", "amqps://"):
                self.refused(scheme + template.format(CANARY), part)

    def test_scheme(self) -> None:
        """
        There are two schemes, and none by default.
        """
        for uri in (
            f"http://u:{CANARY}@h",
            f"u:{CANARY}@h",
            f"amqp:u:{CANARY}@h",
            f"amqp+ssl://u:{CANARY}@h",
            "",
        ):
            self.refused(uri, "neither amqp:// nor amqps://")

    def test_not_text(self) -> None:
        """
        Other types, and bytes that are not UTF-8, are refused, also as the environment
        and the command line have them.
        """
        latin = b"amqp://u:\xe4" + CANARY.encode() + b"@h"
        self.refused(latin, "not UTF-8")
        self.refused(latin.decode("utf-8", "surrogateescape"), "not UTF-8")
        self.refused(f"amqp://u:\ud800{CANARY}@h", "not UTF-8")
        self.refused(None, "NoneType")

    def test_query(self) -> None:
        """
        Parameters that are unknown, repeated, malformed or out of range are
        refused by their name.
        """
        for scheme, query, problem in (
            ("amqp", "hartbeat=1", "'hartbeat' is unknown; did you mean heartbeat?"),
            ("amqp", "verify_ssl=1", "'verify_ssl' is unknown"),
            ("amqp", "Heartbeat=1", "'Heartbeat' is unknown"),
            ("amqp", "virtual_host=x", "virtual_host is not for URIs"),
            ("amqp", "handshake_timeout=x", "handshake_timeout is not for URIs"),
            ("amqps", "password=" + CANARY, "'password' is unknown"),
            ("amqps", "depth=1", "'depth' is unknown"),
            ("amqp", "heartbeat", "'heartbeat' has no value"),
            ("amqp", "heartbeat=1&heartbeat=1", "heartbeat is there more than once"),
            ("amqp", "heartbeat=", "heartbeat is '', not a whole number"),
            ("amqp", "heartbeat=-1", "heartbeat is '-1'"),
            ("amqp", "heartbeat=1.5", "heartbeat is '1.5'"),
            ("amqp", "heartbeat=65536", "heartbeat is 65536, not from 0 to 65535"),
            ("amqp", "channel_max=65536", "channel_max is 65536"),
            ("amqp", "frame_max=8191", "frame_max is 8191, not 0, or from 8192"),
            ("amqp", "frame_max=4294967296", "frame_max is 4294967296"),
            ("amqp", "connection_timeout=0", "connection_timeout is 0"),
            ("amqp", "connection_timeout=5s", "connection_timeout is '5s'"),
            ("amqp", "name=", "name is empty"),
            ("amqp", "name=%zz", "'name' has a '%'"),
            ("amqp", "auth_mechanism=cram", "plain, amqplain, external, anonymous"),
            ("amqp", "cacertfile=/ca.pem", "cacertfile is for amqps://"),
            ("amqp", "verify=verify_peer", "verify is for amqps://"),
            ("amqp", "server_name_indication=x", "server_name_indication is for"),
            ("amqps", "verify=1", "verify is '1'"),
            ("amqps", "verify=verify_none", "tls=UnverifiedTLS()"),
            ("amqps", "certfile=/c", "certfile and keyfile go together"),
            ("amqps", "keyfile=/k", "certfile and keyfile go together"),
            ("amqps", "cacertfile=", "cacertfile is empty"),
        ):
            self.refused(f"{scheme}://u:{CANARY}@h/v?{query}", problem)

    def refused(self, uri: Any, problem: str) -> None:
        """
        The URI is refused for the problem, and the password not shown.
        """
        with self.assertRaises(InvalidURI) as caught:
            from_uri(uri)
        error = caught.exception
        self.assertIn(problem, str(error), uri)
        self.assertIsNone(error.__cause__)
        self.assertIsNone(error.__context__)
        try:
            from_uri(uri)
        except InvalidURI:
            self.assertNotIn(CANARY, verbose(Failure(captureVars=True)))


class QueryTests(SynchronousTestCase):
    """
    RabbitMQ's query parameters, and ours.
    """

    def test_values(self) -> None:
        """
        Each parameter reaches its field, in the field's unit.
        """
        parameters = from_uri(
            "amqp://h?heartbeat=30&connection_timeout=1500&channel_max=0"
            "&frame_max=0&name=my%20app%26co"
        )
        self.assertEqual(
            parameters,
            ConnectionParameters(
                host="h",
                heartbeat=30,
                connection_timeout=1.5,
                channel_max=0,
                frame_max=0,
                name="my app&co",
            ),
        )

    def test_tls(self) -> None:
        """
        The parameters of TLS do, too.
        """
        parameters = from_uri(
            "amqps://h/?cacertfile=/etc/ca%2b.pem&certfile=c.pem&keyfile=k+.pem"
            "&verify=verify_peer&server_name_indication=rabbit.example"
        )
        self.assertEqual(
            parameters.tls,
            TLSParameters(
                cafile="/etc/ca+.pem",
                certfile="c.pem",
                keyfile="k+.pem",
                server_name="rabbit.example",
            ),
        )
        self.assertEqual(parameters.certified_name, "rabbit.example")

    def test_mechanisms(self) -> None:
        """
        Mechanisms are taken in their order, in any case, and once.
        """
        parameters = from_uri(
            "amqps://u:p@h?auth_mechanism=EXTERNAL&auth_mechanism=amqplain"
            "&auth_mechanism=Plain&auth_mechanism=plain&auth_mechanism=anonymous"
        )
        self.assertEqual(
            parameters.credentials,
            (
                ExternalCredentials(),
                AMQPlainCredentials("u", "p"),
                PlainCredentials("u", "p"),
                AnonymousCredentials(),
            ),
        )

    def test_external_only(self) -> None:
        """
        Who asks for EXTERNAL has no password to fall back to.
        """
        parameters = from_uri("amqps://h?auth_mechanism=external")
        self.assertEqual(parameters.credentials, (ExternalCredentials(),))

    def test_guest_for_nobody_else(self) -> None:
        """
        guest's password is not tried for a user who came without one.
        """
        self.assertEqual(
            from_uri("amqp://u@h?auth_mechanism=plain").credentials,
            (PlainCredentials("u", ""),),
        )


class ConnectionParametersTests(SynchronousTestCase):
    """
    Values that come from Python.
    """

    def test_credentials(self) -> None:
        """
        There is one, or there are several; anything else is refused, and not shown.
        """
        one, other = PlainCredentials("u", "p"), ExternalCredentials()
        for each, taken in (
            (one, (one,)),
            ([one], (one,)),
            ((one, other), (one, other)),
            (iter([other]), (other,)),
        ):
            parameters = ConnectionParameters(credentials=each)  # type: ignore[arg-type]
            self.assertEqual(parameters.credentials, taken)
            self.assertEqual(
                dataclasses.replace(parameters, host="h").credentials, taken
            )
            self.assertEqual(pickle.loads(pickle.dumps(parameters)), parameters)
        wrong: tuple[Any, ...] = (
            (),
            None,
            5,
            CANARY,
            CANARY.encode(),
            ("u", CANARY),
            [("u", CANARY)],
            {"u": CANARY},
            PlainCredentials,
        )
        for each in wrong:
            with self.assertRaises(LocalProtocolError) as raised:
                ConnectionParameters(credentials=each)
            self.assertNotIsInstance(raised.exception, InvalidURI)
            self.assertIn(
                "give an object such as PlainCredentials", str(raised.exception)
            )
            self.assertNotIn(CANARY, str(raised.exception))

    def test_refused(self) -> None:
        """
        What cannot be is refused, by the field's name.
        """
        bad: list[dict[str, Any]] = [
            {"host": ""},
            {"host": b"h"},
            {"port": 0},
            {"port": 65536},
            {"port": "5672"},
            {"port": True},
            {"virtual_host": None},
            {"virtual_host": "é" * 128},
            {"virtual_host": "\ud800"},
            {"tls": True},
            {"heartbeat": -1},
            {"heartbeat": None},
            {"heartbeat": 1.5},
            {"connection_timeout": 0},
            {"handshake_timeout": float("inf")},
            {"handshake_timeout": float("nan")},
            {"close_timeout": "5"},
            {"close_timeout": True},
            {"read_pause": -0.1},
            {"channel_max": 65536},
            {"frame_max": 4096},
            {"max_body_size": -1},
            {"name": None},
            {"locale": ""},
        ]
        for each in bad:
            error = self.assertRaises(InvalidURI, ConnectionParameters, **each)
            self.assertIn(next(iter(each)), str(error))
            self.assertNotIn(CANARY, str(error))

    def test_tls_refused(self) -> None:
        """
        Settings of TLS that contradict each other are refused.
        """
        thing: Any = object()
        bad: list[tuple[type[TLSParameters], dict[str, Any]]] = [
            (TLSParameters, {"cafile": ""}),
            (TLSParameters, {"cafile": b"/ca"}),
            (TLSParameters, {"certfile": "c"}),
            (TLSParameters, {"cafile": "c", "trust_root": thing}),
            (TLSParameters, {"cafile": "c", "connection_creator": thing}),
            (TLSParameters, {"trust_root": thing, "connection_creator": thing}),
            (UnverifiedTLS, {"cafile": "c"}),
            (UnverifiedTLS, {"trust_root": thing}),
        ]
        for kind, each in bad:
            self.assertRaises(InvalidURI, kind, **each)

    def test_port_follows_tls(self) -> None:
        """
        Criterion 26: without a port of its own, a copy with TLS uses TLS's.
        """
        plain = ConnectionParameters(host="h")
        self.assertEqual(plain.port_number, 5672)
        secure = dataclasses.replace(plain, tls=TLSParameters())
        self.assertEqual(secure.port_number, 5671)

    def test_certified_name(self) -> None:
        """
        The name that a certificate has to have: none without TLS, none when that
        was turned off by name, the host's without the zone otherwise.
        """
        self.assertIsNone(ConnectionParameters().certified_name)
        self.assertIsNone(ConnectionParameters(tls=UnverifiedTLS()).certified_name)
        for host, name in (("h", "h"), ("fe80::1%eth0", "fe80::1")):
            parameters = ConnectionParameters(host=host, tls=TLSParameters())
            self.assertEqual(parameters.certified_name, name)

    def test_properties_are_ours(self) -> None:
        """
        Client properties and credentials that the caller changes later are not
        changed here.
        """
        properties = {"a": 1}
        credentials = [ExternalCredentials()]
        parameters = ConnectionParameters(
            client_properties=properties, credentials=credentials
        )
        properties.clear()
        credentials.clear()
        self.assertEqual(parameters.client_properties, {"a": 1})
        self.assertEqual(parameters.credentials, (ExternalCredentials(),))
        hash(parameters)


class CanaryTests(SynchronousTestCase):
    """
    Criterion 28: the password is seen nowhere.
    """

    def test_text(self) -> None:
        """
        No text that parameters turn into shows it.
        """
        parameters = from_uri(f"amqps://u:{CANARY}@[::1]/a%2Fb?auth_mechanism=amqplain")
        for text in (
            repr(parameters),
            str(parameters),
            f"{parameters}",
            parameters.display,
            repr(vars(parameters)),
            repr(dataclasses.asdict(parameters)),
        ):
            self.assertNotIn(CANARY, text)
        self.assertEqual(parameters.display, "amqps://u@[::1]:5671/a%2Fb")

    def test_display(self) -> None:
        """
        The text for logs is a URI for the same place.
        """
        for uri, display in (
            ("amqp://", "amqp://guest@localhost:5672/%2F"),
            ("amqp://%40@h/", "amqp://%40@h:5672/"),
            ("amqps://h?auth_mechanism=external", "amqps://h:5671/%2F"),
            ("amqp://u%ff@h/v%ff", "amqp://u%FF@h:5672/v%FF"),
        ):
            parameters = from_uri(uri)
            self.assertEqual(parameters.display, display)
            again = from_uri(display)
            self.assertEqual(
                (again.host, again.port_number, again.virtual_host),
                (parameters.host, parameters.port_number, parameters.virtual_host),
            )
