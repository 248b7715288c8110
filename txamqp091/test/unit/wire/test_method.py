# -*- test-case-name: txamqp091.test.unit.wire.test_method -*-
"""
Tests for `txamqp091.wire.method`: what is made of the declarations.

Every method goes round with anything its fields hold, and is cut at every
byte.  That the declarations are right is a matter for `test_spec`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import DecodeError, EncodeError, MethodNotImplemented
from txamqp091.test.unit.wire.test_types import tables
from txamqp091.wire import spec
from txamqp091.wire.method import (
    METHODS,
    Field,
    Method,
    decode_method,
    method,
    operation_name,
    source,
)
from txamqp091.wire.types import EMPTY_TABLE, SECRET, Bit, LongStr, Short, Wire

CANARY = "canary-7f3a"

# A method and its bytes.
ROWS: list[tuple[Method, bytes]] = [
    (spec.ChannelOpen(), b"\0\x14\0\x0a\0"),
    (spec.ChannelOpenOk(b""), b"\0\x14\0\x0b\0\0\0\0"),
    (spec.ConnectionCloseOk(), b"\0\x0a\0\x33"),
    (
        spec.ConnectionTuneOk(2047, 131072, 60),
        b"\0\x0a\0\x1f\7\xff\0\2\0\0\0\x3c",
    ),
    (
        spec.ConnectionClose(404, "gone", class_id=60, method_id=40),
        b"\0\x0a\0\x32\1\x94\4gone\0\x3c\0\x28",
    ),
    (
        spec.QueueDeclare(
            queue="q", durable=True, auto_delete=True, arguments={"a": None}
        ),
        b"\0\x32\0\x0a\0\0\1q\x0a\0\0\0\3\1aV",
    ),
    (spec.QueueDeclare(0, "", no_wait=True), b"\0\x32\0\x0a\0\0\0\x10\0\0\0\0"),
    (
        spec.BasicPublish(exchange="e", routing_key="\u20ac", immediate=True),
        b"\0\x3c\0\x28\0\0\1e\3\xe2\x82\xac\2",
    ),
    (
        spec.BasicDeliver("tag", 2**64 - 1, True, "", "\udcff"),
        b"\0\x3c\0\x3c\3tag" + b"\xff" * 8 + b"\1\0\1\xff",
    ),
    (spec.BasicAck(1, True), b"\0\x3c\0\x50" + b"\0" * 7 + b"\1\1"),
    (
        spec.BasicQos(prefetch_count=100, global_=True),
        b"\0\x3c\0\x0a\0\0\0\0\0\x64\1",
    ),
    (spec.ConnectionSecureOk(b"s"), b"\0\x0a\0\x15\0\0\0\1s"),
]

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=63)
surrogates = st.binary(max_size=255).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
VALUES: dict[Wire, st.SearchStrategy[Any]] = {
    Wire.OCTET: st.integers(0, 2**8 - 1),
    Wire.SHORT: st.integers(0, 2**16 - 1),
    Wire.LONG: st.integers(0, 2**32 - 1),
    Wire.LONGLONG: st.integers(0, 2**64 - 1),
    Wire.BIT: st.booleans(),
    Wire.SHORTSTR: texts | surrogates,
    Wire.LONGSTR: st.binary(),
    Wire.TABLE: tables,
}

MISFITS: dict[Wire, list[Any]] = {
    Wire.OCTET: [-1, 2**8, "1", None, 1.0],
    Wire.SHORT: [-1, 2**16, "1", None, 1.0],
    Wire.LONG: [-1, 2**32, "1", None, 1.0],
    Wire.LONGLONG: [-1, 2**64, "1", None, 1.0, 10**5000],
    Wire.BIT: [2, None, "yes", [], 0.5],
    Wire.SHORTSTR: ["x" * 256, b"q", None, 5, "\ud800", spec.ChannelOpen()],
    Wire.LONGSTR: ["x", None, 5, [1]],
    Wire.TABLE: [None, [], "x", {"a": object()}, {1: 2}],
}


def filled(kind: type[Method]) -> Method:
    """
    A method none of whose arguments is as by default.
    """
    values: dict[Wire, Any] = {
        Wire.SHORTSTR: "some text",
        Wire.LONGSTR: b"some bytes",
        Wire.TABLE: {"a": [1, "two", {"three": None}], "b": 2**40},
    }
    return kind(
        *(
            not field.default
            if field.wire is Wire.BIT
            else values.get(
                field.wire, field.default + 5 if field.wire not in values else 0
            )
            for field in kind.fields
        )
    )


def carefully_decoded(kind: type[Method], data: bytes) -> Method:
    """
    A method decoded field by field, as the compiled way does when in doubt.
    """
    decode: Callable[[type[Method], bytes], Method] = vars(Method)["decode"].__func__
    return decode(kind, data)


class CodecTests(SynchronousTestCase):
    """
    Tests for encoding and decoding.
    """

    def test_both_ways(self) -> None:
        """
        Methods have their bytes, and the bytes give them back.
        """
        for value, data in ROWS:
            self.assertEqual(value.encode(), data)
            self.assertEqual(decode_method(data), value)
            self.assertEqual(type(value).decode(data), value)

    def test_round_trip(self) -> None:
        """
        Every method goes round with whatever its fields hold, and the compiled
        codec agrees with the one that goes field by field.
        """

        def check(value: Method) -> None:
            data = value.encode()
            self.assertEqual(data, Method.encode(value))
            back = decode_method(data)
            self.assertIs(type(back), type(value))
            self.assertEqual(back, value)
            self.assertEqual(carefully_decoded(type(value), data), value)

        for kind in METHODS.values():
            fields = {field.name: VALUES[field.wire] for field in kind.fields}
            settings(max_examples=15)(given(st.builds(kind, **fields))(check))()

    def test_misfits(self) -> None:
        """
        An argument that does not fit is refused by its name, and by its place
        within a table.
        """
        for kind in METHODS.values():
            for field in kind.fields:
                for value in MISFITS[field.wire]:
                    odd = kind(**{field.name: value})
                    error = self.assertRaises(EncodeError, odd.encode)
                    self.assertEqual(error.path.split("[")[0], field.name)
        odd = spec.QueueDeclare(arguments={"x-max-length": 2**70})
        error = self.assertRaises(EncodeError, odd.encode)
        self.assertEqual(error.path, "arguments['x-max-length']")

    def test_odd_but_fitting(self) -> None:
        """
        Subclasses of what a field holds, and bytes-like values, are taken.
        """
        values: list[Any] = [1, True]
        for value in values:
            self.assertEqual(spec.BasicAck(7, value).encode()[-1], 1)
        response: Any = bytearray(b"ab")
        self.assertEqual(
            spec.ConnectionSecureOk(response), spec.ConnectionSecureOk(b"ab")
        )
        self.assertEqual(spec.ConnectionSecureOk(response).encode()[-3:], b"\2ab")

    def test_every_truncation(self) -> None:
        """
        A method cut at any byte is refused by a typed error that says which
        method and which argument it was.
        """
        for kind in METHODS.values():
            whole = filled(kind).encode()
            self.assertEqual(decode_method(whole), filled(kind))
            for end in range(4):
                error = self.assertRaises(DecodeError, decode_method, whole[:end])
                self.assertEqual(error.reply_code, 502)
            for end in range(4, len(whole)):
                error = self.assertRaises(DecodeError, decode_method, whole[:end])
                self.assertEqual(error.reply_code, 502)
                self.assertEqual((error.class_id, error.method_id), kind.identity)
                name, _, argument = error.reply_text.partition(":")[0].rpartition(".")
                self.assertEqual(name, kind.name)
                self.assertIn(
                    argument.split("[")[0], [field.name for field in kind.fields]
                )

    def test_bytes_left_over(self) -> None:
        """
        Bytes after the arguments are refused.
        """
        for kind in METHODS.values():
            error = self.assertRaises(
                DecodeError, decode_method, filled(kind).encode() + b"\0"
            )
            self.assertIn("1 bytes after its arguments", error.reply_text)
            self.assertEqual((error.class_id, error.method_id), kind.identity)

    def test_unknown(self) -> None:
        """
        A class or a method that AMQP does not have is 540.
        """
        for class_id, method_id in [(0, 0), (10, 12), (65535, 65535), (61, 40)]:
            payload = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
            for rest in (b"", b"anything"):
                error = self.assertRaises(
                    MethodNotImplemented, decode_method, payload + rest
                )
                self.assertEqual(error.reply_code, 540)
                self.assertEqual(
                    (error.class_id, error.method_id), (class_id, method_id)
                )

    @given(st.sampled_from(list(METHODS.values())), st.data())
    @settings(max_examples=500)
    def test_any_bytes(self, kind: type[Method], draw: Any) -> None:
        """
        Whatever the bytes, there is a method or a typed error.
        """
        data = bytearray(filled(kind).encode())
        for _ in range(draw.draw(st.integers(1, 4))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(
                st.integers(0, 255)
            )
        for attempt in (bytes(data), kind.prefix + draw.draw(st.binary(max_size=40))):
            try:
                decoded = decode_method(attempt)
            except (DecodeError, MethodNotImplemented):
                continue
            self.assertIn(type(decoded), METHODS.values())

    def test_nothing_of_the_compiler_shows(self) -> None:
        """
        An error does not drag along how the fast way failed.
        """
        encode = spec.QueueDeclare(queue="x" * 256).encode
        for attempt in (encode, lambda: decode_method(b"\0\x32\0\x0a\0")):
            try:
                attempt()
            except (EncodeError, DecodeError) as error:
                self.assertTrue(error.__suppress_context__ or not error.__context__)
            else:
                self.fail("no error")


class MethodTests(SynchronousTestCase):
    """
    Tests for methods as objects.
    """

    def test_defaults(self) -> None:
        """
        Every argument has a default, and the defaults go round.
        """
        for kind in METHODS.values():
            self.assertEqual(decode_method(kind().encode()), kind())
        self.assertEqual(spec.QueueDeclare().arguments, {})
        self.assertEqual(spec.ConnectionOpen().virtual_host, "/")

    def test_no_shared_table(self) -> None:
        """
        The default of a table cannot be changed for everyone.
        """
        arguments: Any = spec.QueueDeclare().arguments
        with self.assertRaises(TypeError):
            arguments["x"] = 1

    def test_positional(self) -> None:
        """
        Arguments may be given in wire order, and matched so.
        """
        match spec.BasicAck(7, True):
            case spec.BasicAck(tag, multiple):
                self.assertEqual((tag, multiple), (7, True))

    def test_slots(self) -> None:
        """
        A misspelt argument is an error.
        """
        value: Any = spec.QueueDeclare()
        with self.assertRaises(AttributeError):
            value.que = "q"
        with self.assertRaises(TypeError):
            spec.QueueDeclare(que="q")  # type: ignore[call-arg]

    def test_equality(self) -> None:
        """
        Methods are equal when they are the same method with the same arguments.
        """
        self.assertEqual(spec.QueueBind(queue="q"), spec.QueueBind(queue="q"))
        self.assertNotEqual(spec.QueueBind(queue="q"), spec.QueueBind(queue="r"))
        self.assertNotEqual(spec.TxSelectOk(), spec.TxCommitOk())
        self.assertNotEqual(spec.TxSelectOk(), None)
        with self.assertRaises(TypeError):
            hash(spec.QueueBind())

    def test_repr(self) -> None:
        """
        A method shows its name, and the arguments that are not as by default.
        """
        self.assertEqual(repr(spec.TxSelect()), "TxSelect()")
        self.assertEqual(
            repr(spec.QueueDeclare(queue="q", arguments={"a": 1})),
            "QueueDeclare(queue='q', arguments={'a': 1})",
        )

    def test_secrets(self) -> None:
        """
        What proves who somebody is shows nowhere, also not when it does not fit.
        """
        secret = CANARY.encode()
        misfit: Any = CANARY
        for kind, name in [
            (spec.ConnectionStartOk, "response"),
            (spec.ConnectionSecure, "challenge"),
            (spec.ConnectionSecureOk, "response"),
            (spec.ConnectionUpdateSecret, "new_secret"),
        ]:
            value = kind(**{name: secret})
            self.assertEqual(repr(value), f"{kind.__name__}({name}=***)")
            self.assertEqual(str(value), repr(value))
            misfits = self.assertRaises(EncodeError, kind(**{name: misfit}).encode)
            self.assertEqual(misfits.path, name)
            cut = self.assertRaises(DecodeError, decode_method, value.encode()[:-1])
            for error in (misfits, cut):
                self.assertNotIn(CANARY, "".join(traceback.format_exception(error)))

    def test_metadata(self) -> None:
        """
        A class knows its numbers, its name, its replies and its content.
        """
        kind = spec.BasicGet
        self.assertEqual(kind.identity, (60, 70))
        self.assertEqual(kind.prefix, b"\0\x3c\0\x46")
        self.assertEqual(kind.name, "basic.get")
        self.assertEqual(kind.replies, (spec.BasicGetOk, spec.BasicGetEmpty))
        self.assertFalse(kind.content)
        self.assertTrue(spec.BasicGetOk.content)
        self.assertEqual(spec.BasicGetOk.replies, ())
        self.assertEqual(operation_name(*kind.identity), kind.name)
        self.assertEqual(
            spec.ConnectionSecure.fields,
            (Field("challenge", Wire.LONGSTR, b"", True),),
        )
        self.assertIn("Take one message", kind.__doc__ or "")
        self.assertEqual(kind.__module__, "txamqp091.wire.spec")


class CompilerTests(SynchronousTestCase):
    """
    Tests for the compiler, with methods that AMQP does not have.
    """

    def declare(self, declared: type[Method]) -> type[Method]:
        """
        Compile a class for the time of one test.
        """
        self.addCleanup(METHODS.pop, b"\xff\xff\0\1")
        return method(65535, 1)(declared)

    def test_many_bits(self) -> None:
        """
        More than eight bits, and bits that a number parts, take more octets.
        """

        class ManyBits(Method):
            a: Bit = False
            b: Bit = False
            c: Bit = False
            d: Bit = False
            e: Bit = False
            f: Bit = False
            g: Bit = False
            h: Bit = False
            i: Bit = False
            number: Short = 0
            j: Bit = False
            k: Bit = False

        kind = self.declare(ManyBits)
        for names, octets in [
            ("", b"\0\0\0\0\0"),
            ("ah", b"\x81\0\0\0\0"),
            ("i", b"\0\1\0\0\0"),
            ("k", b"\0\0\0\0\2"),
            ("abcdefghijk", b"\xff\1\0\0\3"),
        ]:
            value = kind(**dict.fromkeys(names, True))
            self.assertEqual(value.encode(), b"\xff\xff\0\1" + octets)
            self.assertEqual(Method.encode(value), value.encode())
            self.assertEqual(decode_method(value.encode()), value)
            for end in range(5):
                self.assertRaises(DecodeError, kind.decode, value.encode()[: 4 + end])
            self.assertEqual(carefully_decoded(kind, value.encode()), value)

    def test_other_defaults(self) -> None:
        """
        A secret is marked beside the type, and any value may be a default.
        """

        class OddOne(Method):
            token: Annotated[LongStr, SECRET] = memoryview(b"x")  # type: ignore[assignment]

        kind = self.declare(OddOne)
        self.assertEqual(kind().encode(), b"\xff\xff\0\1\0\0\0\1x")
        self.assertEqual(kind.fields[0].secret, True)

    def test_source(self) -> None:
        """
        The compiled source can be read, and tracebacks show its lines.
        """
        self.assertIn("def encode(self):", source(spec.BasicPublish))
        try:
            decode: Any = spec.BasicPublish.decode
            decode(None)
        except TypeError as error:
            self.assertIn("payload", "".join(traceback.format_exception(error)))
        else:
            self.fail("no error")

    def test_print(self) -> None:
        """
        The package, run as a program, prints the source of a method.
        """
        printed = subprocess.run(
            [sys.executable, "-m", "txamqp091.wire", "BasicPublish"],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
        )
        self.assertEqual(printed.stdout, source(spec.BasicPublish))
        self.assertEqual(printed.stderr, "")

    def test_empty_table(self) -> None:
        """
        The default of tables is shared, and empty.
        """
        self.assertIs(spec.QueueDeclare().arguments, EMPTY_TABLE)
