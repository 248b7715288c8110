# -*- test-case-name: txamqp091.test.unit.client.test_hosts -*-
"""
Tests for `txamqp091._hosts`: which names hosts can have.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._hosts import ascii_host
from txamqp091.errors import InvalidURI


class HostTests(SynchronousTestCase):
    """
    Names become ASCII, or are refused.
    """

    def test_names(self) -> None:
        """
        ASCII stays as it is; other letters are encoded as IDNA 2008 has it, for which
        "ß" is a letter of its own.
        """
        for name, text in (
            ("localhost", "localhost"),
            ("Rabbit.Example", "Rabbit.Example"),
            ("my_rabbit", "my_rabbit"),
            ("_amqp._tcp.example", "_amqp._tcp.example"),
            ("-a", "-a"),
            ("xn--a", "xn--a"),
            ("a1.2b", "a1.2b"),
            ("host.", "host."),
            ("x" * 63 + ".example", "x" * 63 + ".example"),
            ("Bücher.Example", "xn--bcher-kva.Example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("my_rabbit.bücher\N{IDEOGRAPHIC FULL STOP}", "my_rabbit.xn--bcher-kva."),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            self.assertEqual(ascii_host(name), text)

    def test_refused(self) -> None:
        """
        What no host is called is refused, in words; and so are the numbers that C
        libraries take for addresses, for some event loops do not ask them.
        """
        for name, words in (
            ("", "empty part"),
            (".", "empty part"),
            ("a..b", "empty part"),
            (".a", "empty part"),
            ("a b", "a character"),
            ("a\0b", "a character"),
            ("a/b", "a character"),
            ("bücher_x", "IDNA"),
            ("\udce4", "IDNA"),
            ("\ud800", "IDNA"),
            ("\N{SOFT HYPHEN}", "IDNA"),
            ("2130706433", "a number"),
            ("127.1", "a number"),
            ("0x7f000001", "a number"),
            ("010.0.0.1", "a number"),
            ("1.2.3.4.", "a number"),
            ("x" * 64 + ".example", "63"),
            ("\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 64, "IDNA"),
            ("a." * 126 + "ab", "253"),
        ):
            error = self.assertRaises(InvalidURI, ascii_host, name)
            self.assertIn(words, str(error), name)
            self.assertTrue(str(error).isprintable())
