# -*- test-case-name: txamqp091.test.unit.wire.test_spec -*-
"""
Holds `txamqp091.wire.spec` against AMQP 0-9-1 as it was published.

The witness is the specification's XML with RabbitMQ's additions of 2010, which
Debian installs with ``amqp-specs``.  What RabbitMQ has added since, and where
the declarations differ on purpose, is listed here.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091 import errors
from txamqp091.wire import spec
from txamqp091.wire.method import METHODS, Method, operation_name
from txamqp091.wire.properties import PROPERTY_TYPES

WITNESS = Path("/usr/share/amqp/specs/0-9-1-rabbit/amqp0-9-1.stripped.extended.xml")


class Declared(NamedTuple):
    """
    What is to be declared of one method.
    """

    identity: tuple[int, int]
    name: str
    fields: tuple[tuple[str, str], ...]
    replies: tuple[str, ...]
    content: bool


# https://www.rabbitmq.com/docs/connection-blocked, .../docs/auth-mechanisms and
# AMQP 0-9, which RabbitMQ still takes access.request from.
NOT_IN_THE_WITNESS = [
    Declared((10, 60), "connection.blocked", (("reason", "shortstr"),), (), False),
    Declared((10, 61), "connection.unblocked", (), (), False),
    Declared(
        (10, 70),
        "connection.update-secret",
        (("new_secret", "longstr"), ("reason", "shortstr")),
        ("connection.update-secret-ok",),
        False,
    ),
    Declared((10, 71), "connection.update-secret-ok", (), (), False),
    Declared(
        (30, 10),
        "access.request",
        (
            ("realm", "shortstr"),
            ("exclusive", "bit"),
            ("passive", "bit"),
            ("active", "bit"),
            ("write", "bit"),
            ("read", "bit"),
        ),
        ("access.request-ok",),
        False,
    ),
    Declared((30, 11), "access.request-ok", (("reserved_1", "short"),), (), False),
]

CONSTANTS_NOT_IN_THE_WITNESS = {"NO_ROUTE": 312}

# The witness does not say that recover-ok answers recover, though its text does.
REPLIES_NOT_IN_THE_WITNESS = {"basic.recover": ("basic.recover-ok",)}

# Names that Python keeps for itself, or that RabbitMQ documents otherwise.
RENAMED = {"global": "global_", "reserved": "cluster_id"}


def python_name(name: str) -> str:
    """
    A name of the specification as an identifier.
    """
    return RENAMED.get(name, name.replace("-", "_"))


def witness() -> ElementTree.Element:
    """
    The specification; where it is not installed, the test is skipped, but not
    under CI.
    """
    if not WITNESS.exists():
        reason = f"{WITNESS} is missing: apt-get install amqp-specs"
        if os.environ.get("CI"):
            raise AssertionError(reason)
        raise SkipTest(reason)
    return ElementTree.parse(WITNESS).getroot()


def field_types(
    element: ElementTree.Element, domains: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """
    The fields below an element: names and elementary types.
    """
    return tuple(
        (
            python_name(field.attrib["name"]),
            domains[field.get("domain") or field.attrib["type"]],
        )
        for field in element.findall("field")
    )


def domains_of(root: ElementTree.Element) -> dict[str, str]:
    """
    The elementary type of each domain.
    """
    return {each.attrib["name"]: each.attrib["type"] for each in root.findall("domain")}


def published(root: ElementTree.Element) -> dict[str, Declared]:
    """
    Every method of the specification, by name.
    """
    found = {}
    for group in root.findall("class"):
        prefix = group.attrib["name"] + "."
        for each in group.findall("method"):
            name = prefix + each.attrib["name"]
            replies = tuple(
                prefix + response.attrib["name"]
                for response in each.findall("response")
            )
            found[name] = Declared(
                (int(group.attrib["index"]), int(each.attrib["index"])),
                name,
                field_types(each, domains_of(root)),
                REPLIES_NOT_IN_THE_WITNESS.get(name, replies),
                each.get("content") == "1",
            )
    return found


def declared(kind: type[Method]) -> Declared:
    """
    What a class declares.
    """
    return Declared(
        kind.identity,
        kind.name,
        tuple((field.name, field.wire.value) for field in kind.fields),
        tuple(reply.name for reply in kind.replies),
        kind.content,
    )


class SpecTests(SynchronousTestCase):
    """
    Tests for the declarations.
    """

    maxDiff = None

    def test_methods(self) -> None:
        """
        Every class, method, field, type, reply and content flag is as published,
        and there are no others but those listed.
        """
        expected = published(witness())
        for extra in NOT_IN_THE_WITNESS:
            self.assertNotIn(extra.name, expected)
            expected[extra.name] = extra
        found = {kind.name: declared(kind) for kind in METHODS.values()}
        self.assertEqual(found, expected)
        self.assertEqual(len(METHODS), len(expected))

    def test_properties(self) -> None:
        """
        The message properties are those of the class basic, in its order.
        """
        root = witness()
        basic = next(
            each for each in root.findall("class") if each.attrib["name"] == "basic"
        )
        self.assertEqual(
            tuple((name, wire.value) for name, wire in PROPERTY_TYPES.items()),
            field_types(basic, domains_of(root)),
        )

    def test_constants(self) -> None:
        """
        Every constant has its published value, and there are no others but those
        listed.
        """
        expected = {
            each.attrib["name"].replace("-", "_").upper(): int(each.attrib["value"])
            for each in witness().findall("constant")
        }
        expected.update(CONSTANTS_NOT_IN_THE_WITNESS)
        found = {
            name: value for name, value in vars(spec).items() if type(value) is int
        }
        self.assertEqual(found, expected)
        self.assertEqual(spec.PROTOCOL_HEADER, b"AMQP\x00\x00\x09\x01")

    def test_soft_and_hard_errors(self) -> None:
        """
        A code that ends a channel has an error of a channel, and one that ends
        the connection has an error of a connection.
        """
        for each in witness().findall("constant"):
            code = int(each.attrib["value"])
            if each.get("class") == "soft-error":
                error: errors.Closed = errors.channel_closed(code, "")
                self.assertIsInstance(error, errors.ChannelClosed)
            elif each.get("class") == "hard-error":
                error = errors.connection_closed(code, "")
                self.assertIsInstance(error, errors.ConnectionClosed)
            else:
                continue
            self.assertEqual(error.reply_code, code)

    def test_exported(self) -> None:
        """
        ``__all__`` has every constant and every method.
        """
        public = {
            name
            for name, value in vars(spec).items()
            if name.isupper() and type(value) in (int, bytes)
        }
        public |= {kind.__name__ for kind in METHODS.values()}
        self.assertEqual(set(spec.__all__), public)
        self.assertEqual(len(spec.__all__), len(public))

    def test_described(self) -> None:
        """
        Every method says what it is for.
        """
        for kind in METHODS.values():
            self.assertTrue((kind.__doc__ or "").strip(), kind.__name__)

    def test_operation_name(self) -> None:
        """
        A method has the name that brokers and documents call it by; numbers that
        no method has, have none.
        """
        self.assertEqual(operation_name(50, 10), "queue.declare")
        self.assertEqual(operation_name(60, 100), "basic.recover-async")
        self.assertEqual(operation_name(10, 71), "connection.update-secret-ok")
        self.assertEqual(operation_name(0, 0), "")
        self.assertEqual(operation_name(50, 12), "")
