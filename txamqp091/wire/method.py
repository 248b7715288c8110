# -*- test-case-name: txamqp091.test.unit.wire.test_method -*-
"""
AMQP methods as classes: declare the fields, get the codec.

`method` reads the annotations of a class and gives it slots, a constructor, and
an ``encode`` and a ``decode`` made for it, compiled when it is first used.  This is
the one place that compiles source; to see what it made, run
``python -m txamqp091.wire BasicPublish``.  The methods themselves stand
in `txamqp091.wire.spec`.
"""

from __future__ import annotations

import linecache
import re
import struct
from collections.abc import Callable, Iterator
from inspect import get_annotations
from itertools import product
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    TypeVar,
    dataclass_transform,
)

from txamqp091.errors import DecodeError, EncodeError, MethodNotImplemented
from txamqp091.wire.types import (
    FIELD_DECODERS,
    FIELD_ENCODERS,
    OCTETS,
    SECRET,
    Wire,
    decode_table,
    encode_long_string,
    encode_table,
)

__all__ = [
    "METHODS",
    "Field",
    "Method",
    "decode_method",
    "link_replies",
    "method",
    "operation_name",
    "source",
]


class Field(NamedTuple):
    """
    One declared argument of a method.
    """

    name: str
    wire: Wire
    default: Any
    secret: bool


class Method:
    """
    An AMQP method and its arguments.

    What is said of a whole class is said here; the names keep clear of those of
    the arguments (connection.close has a ``class_id``).

    :cvar identity: the numbers of the AMQP class and of the method in it.
    :cvar prefix: the same, as the four bytes that each such method opens with.
    :cvar name: as in ``queue.declare``.
    :cvar fields: the arguments, in wire order.
    :cvar reply_names: the classes that answer it, by name.
    :cvar replies: the classes that answer it; none if it is not a question.
    :cvar content: whether a header and a body follow it.
    """

    __slots__ = ()

    identity: ClassVar[tuple[int, int]] = (0, 0)
    prefix: ClassVar[bytes] = b"\0\0\0\0"
    name: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()
    reply_names: ClassVar[tuple[str, ...]] = ()
    replies: ClassVar[tuple[type[Method], ...]] = ()
    content: ClassVar[bool] = False

    # A method's own functions take the places of these when one of them is called: a
    # client uses a dozen of 64 methods, and to compile all at import costs 15 ms.

    if not TYPE_CHECKING:  # pragma: no branch

        def __init__(self, *args, **kwargs):
            _compile(type(self))
            type(self).__init__(self, *args, **kwargs)

    def encode(self) -> bytes:
        """
        The method's bytes: its prefix and its arguments.

        :raises EncodeError: naming the first argument that does not fit.
        """
        _compile(type(self))
        return type(self).encode(self)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """
        Read a method.

        :param payload: all that the method frame carried, the prefix first.
        :raises DecodeError: naming the first argument that is malformed.
        """
        _compile(cls)
        return cls.decode(payload)

    # These two go field by field and name the one that is wrong.  The compiled
    # ones come here when they meet anything odd.

    def encode_carefully(self) -> bytes:
        """
        As `encode`.
        """
        parts = [self.prefix]
        bits: list[bool] = []
        for field in self.fields:
            value = getattr(self, field.name)
            if field.wire is Wire.BIT:
                if value not in (False, True):
                    kind = type(value).__name__
                    raise EncodeError(field.name, f"expected a bool, not {kind}")
                bits.append(bool(value))
                continue
            parts += _octets_of_bits(bits)
            bits.clear()
            parts.append(FIELD_ENCODERS[field.wire](value, field.name))
        parts += _octets_of_bits(bits)
        return b"".join(parts)

    @classmethod
    def decode_carefully(cls, payload: bytes) -> Self:
        """
        As `decode`.
        """
        self = object.__new__(cls)
        position = len(cls.prefix)
        octet = bit = 0
        try:
            for field in cls.fields:
                path = f"{cls.name}.{field.name}"
                if field.wire is Wire.BIT:
                    if not bit:
                        octet, position = FIELD_DECODERS[Wire.OCTET](
                            payload, position, path
                        )
                        bit = 1
                    value: object = bool(octet & bit)
                    bit = bit << 1 & 0xFF
                else:
                    bit = 0
                    value, position = FIELD_DECODERS[field.wire](
                        payload, position, path
                    )
                setattr(self, field.name, value)
            if position != len(payload):
                left = len(payload) - position
                raise DecodeError(f"{cls.name}: {left} bytes after its arguments")
        except DecodeError as error:
            error.class_id, error.method_id = cls.identity
            raise
        return self

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in self.fields
        )

    __hash__ = None  # type: ignore[assignment]  # the arguments can be changed

    def __repr__(self) -> str:
        """
        The arguments that are not as they are by default.
        """
        shown = (
            f"{field.name}={'***' if field.secret else repr(value)}"
            for field in self.fields
            if (value := getattr(self, field.name)) != field.default
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def _octets_of_bits(bits: list[bool]) -> list[bytes]:
    """
    Bits share octets, the first in the lowest place (AMQP 0-9-1 §4.2.5.2).
    """
    return [
        OCTETS[sum(bit << place for place, bit in enumerate(bits[start : start + 8]))]
        for start in range(0, len(bits), 8)
    ]


#: Every method, by its prefix.
METHODS: dict[bytes, type[Method]] = {}


def decode_method(payload: bytes) -> Method:
    """
    Read whatever method this is.

    :raises MethodNotImplemented: when there is no such method.
    :raises DecodeError: when it is malformed.
    """
    kind = METHODS.get(payload[:4])
    if kind is not None:
        return kind.decode(payload)
    if len(payload) < 4:
        raise DecodeError("a method frame without the numbers of a method")
    class_id, method_id = struct.unpack_from(">HH", payload)
    raise MethodNotImplemented(
        f"there is no method {method_id} of class {class_id}",
        class_id=class_id,
        method_id=method_id,
    )


def operation_name(class_id: int, method_id: int) -> str:
    """
    The name of a method, such as ``queue.declare``; empty if there is none.
    """
    kind = METHODS.get(class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big"))
    return kind.name if kind is not None else ""


def link_replies() -> None:
    """
    Give every method the classes that its ``reply_names`` name.
    """
    by_name = {kind.__name__: kind for kind in METHODS.values()}
    for kind in METHODS.values():
        kind.replies = tuple(by_name[name] for name in kind.reply_names)


# -- the compiler -----------------------------------------------------------------

_M = TypeVar("_M", bound=Method)


@dataclass_transform()
def method(
    class_id: int,
    method_id: int,
    *,
    replies: tuple[str, ...] = (),
    content: bool = False,
) -> Callable[[type[_M]], type[_M]]:
    """
    Make a class of annotated fields, each with a default, an AMQP method.

    :param replies: the names of the classes that may answer it.
    :param content: whether a header and a body follow it.
    """

    def make_class(declared: type[_M]) -> type[_M]:
        fields = tuple(_fields(declared))
        first, rest = re.fullmatch("([A-Z][a-z]+)(.+)", declared.__name__).groups()  # type: ignore[union-attr]
        prefix = struct.pack(">HH", class_id, method_id)
        names = tuple(field.name for field in fields)
        body = {
            name: value
            for name, value in vars(declared).items()
            if name not in names and name not in ("__dict__", "__weakref__")
        }
        body.update(
            __slots__=names,
            __match_args__=names,
            identity=(class_id, method_id),
            prefix=prefix,
            name=first.lower() + "." + re.sub("(?<=[a-z])(?=[A-Z])", "-", rest).lower(),
            fields=fields,
            reply_names=replies,
            content=content,
        )
        made: type[_M] = type(declared.__name__, (Method,), body)
        METHODS[prefix] = made
        return made

    return make_class


def _fields(declared: type) -> Iterator[Field]:
    for name, annotation in get_annotations(declared, eval_str=True).items():
        wire, *marks = annotation.__metadata__
        yield Field(name, wire, vars(declared)[name], SECRET in marks)


# What the compiled functions may raise when a value does not fit, or when bytes
# are missing or odd; the careful ones then take over, and say what is wrong.
_UNFIT = (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error)
_MALFORMED = (DecodeError, IndexError, UnicodeDecodeError, struct.error)

_CODES = {Wire.OCTET: "B", Wire.SHORT: "H", Wire.LONG: "I", Wire.LONGLONG: "Q"}


def _compile(kind: type[Method]) -> None:
    """
    Give a method its constructor and its codec.
    """
    writer = _Writer(kind.identity)
    writer.write_constructor(kind.fields)
    writer.write_encode(kind.fields)
    writer.write_decode(kind.fields)
    text = "\n".join(writer.lines) + "\n"
    filename = _filename(kind)
    # So that tracebacks and debuggers show the source.
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    made: dict[str, object] = {}
    exec(compile(text, filename, "exec"), writer.names, made)
    made["decode"] = classmethod(made["decode"])  # type: ignore[arg-type]
    for name, function in made.items():
        setattr(kind, name, function)


class _Writer:
    """
    Writes the source of one method's functions.

    Neighbouring fields of fixed size, and the lengths of strings, are packed
    and unpacked together, as a run.

    :ivar lines: the source so far.
    :ivar names: what the source refers to.
    """

    def __init__(self, identity: tuple[int, int]):
        self.lines: list[str] = []
        self.identity = identity
        self.names: dict[str, object] = {
            "careful_decode": vars(Method)["decode_carefully"].__func__,
            "careful_encode": Method.encode_carefully,
            "decode_table": decode_table,
            "encode_long_string": encode_long_string,
            "encode_table": encode_table,
            "malformed": _MALFORMED,
            "new": object.__new__,
            "octets": OCTETS,
            "unfit": _UNFIT,
            "utf8": str.encode,
        }

    def name(self, kind: str, value: object) -> str:
        """
        A name for a value, for the source to use.
        """
        name = f"{kind}{len(self.names)}"
        self.names[name] = value
        return name

    def write_constructor(self, fields: tuple[Field, ...]) -> None:
        arguments = ["self"]
        for field in fields:
            plain = isinstance(field.default, (bool, int, str, bytes))
            default = repr(field.default) if plain else self.name("x", field.default)
            arguments.append(f"{field.name}={default}")
        self.lines.append(f"def __init__({', '.join(arguments)}):")
        self.lines += [f"    self.{each.name} = {each.name}" for each in fields]
        self.lines += ["    return None", ""]

    def write_encode(self, fields: tuple[Field, ...]) -> None:
        self.lines += ["def encode(self):", "    try:"]
        parts: list[str] = []
        run: list[tuple[str, str]] = [("H", str(number)) for number in self.identity]

        def end_run() -> None:
            codes = "".join(code for code, _ in run)
            values = ", ".join(value for _, value in run)
            if codes == "B":
                parts.append(f"octets[{values}]")
            elif codes:
                pack = self.name("pack", struct.Struct(">" + codes).pack)
                parts.append(f"{pack}({values})")
            run.clear()

        for group in _groups(fields):
            name, wire = group[0].name, group[0].wire
            if wire is Wire.BIT:
                run.append(("B", self.bits_to_octet(group)))
            elif wire is Wire.SHORTSTR:
                self.lines.append(f"        {name} = utf8(self.{name})")
                run.append(("B", f"len({name})"))
                end_run()
                parts.append(name)
            elif wire in _CODES:
                run.append((_CODES[wire], f"self.{name}"))
            else:
                end_run()
                encode = "table" if wire is Wire.TABLE else "long_string"
                parts.append(f"encode_{encode}(self.{name}, {name!r})")
        end_run()
        if len(parts) == 1:
            self.lines.append(f"        return {parts[0]}")
        else:
            self.lines.append("        return b''.join((")
            self.lines += [f"            {part}," for part in parts]
            self.lines.append("        ))")
        self.lines += ["    except unfit:", "        pass"]
        self.lines += ["    return careful_encode(self)", ""]

    def bits_to_octet(self, group: tuple[Field, ...]) -> str:
        """
        An expression for the octet that bits share: a look-up that fails for
        whatever is not a bool.
        """
        if len(group) == 1:
            return f"{self.name('bits', {False: 0, True: 1})}[self.{group[0].name}]"
        table = {
            bits: sum(bit << place for place, bit in enumerate(bits))
            for bits in product((False, True), repeat=len(group))
        }
        values = ", ".join(f"self.{field.name}" for field in group)
        return f"{self.name('bits', table)}[{values}]"

    def write_decode(self, fields: tuple[Field, ...]) -> None:
        self.lines += ["def decode(cls, payload):", "    try:"]
        self.lines += ["        self = new(cls)"]
        base, offset = "", 4
        run: list[tuple[str, str]] = []
        after: list[str] = []

        def position() -> str:
            return f"{base} + {offset}" if base and offset else base or str(offset)

        def end_run() -> None:
            nonlocal offset
            codes = "".join(code for code, _ in run)
            targets = ", ".join(target for _, target in run)
            if codes == "B":
                self.lines.append(f"        {targets} = payload[{position()}]")
            elif codes:
                form = struct.Struct(">" + codes)
                unpack = self.name("unpack", form.unpack_from)
                comma = "," if len(run) == 1 else ""
                self.lines.append(
                    f"        {targets}{comma} = {unpack}(payload, {position()})"
                )
            self.lines.extend(after)
            offset += struct.calcsize(">" + codes)
            run.clear()
            after.clear()

        for group in _groups(fields):
            name, wire = group[0].name, group[0].wire
            if wire is Wire.BIT:
                run.append(("B", name))
                after += [
                    f"        self.{field.name} = {name} & {1 << place} != 0"
                    for place, field in enumerate(group)
                ]
            elif wire in _CODES:
                run.append((_CODES[wire], f"self.{name}"))
            elif wire is Wire.TABLE:
                end_run()
                self.lines.append(
                    f"        self.{name}, {name} = "
                    f"decode_table(payload, {position()}, len(payload))"
                )
                base, offset = name, 0
            else:
                run.append(("B" if wire is Wire.SHORTSTR else "I", name))
                end_run()
                decode = ".decode()" if wire is Wire.SHORTSTR else ""
                # What is past the end of the bytes is seen below, at the end.
                self.lines += [
                    f"        {name} += {position()}",
                    f"        self.{name} = payload[{position()}:{name}]{decode}",
                ]
                base, offset = name, 0
        end_run()
        self.lines += [
            f"        if {position()} == len(payload):",
            "            return self",
            "    except malformed:",
            "        pass",
            "    return careful_decode(cls, payload)",
        ]


def _groups(fields: tuple[Field, ...]) -> Iterator[tuple[Field, ...]]:
    """
    The fields one by one, but bits that share an octet together.
    """
    bits: list[Field] = []
    for field in fields:
        if field.wire is Wire.BIT and len(bits) < 8:
            bits.append(field)
            continue
        if bits:
            yield tuple(bits)
            bits = []
        if field.wire is Wire.BIT:
            bits.append(field)
        else:
            yield (field,)
    if bits:
        yield tuple(bits)


def source(kind: type[Method]) -> str:
    """
    The source that is compiled for a method.
    """
    _compile(kind)
    return "".join(linecache.getlines(_filename(kind)))


def _filename(kind: type) -> str:
    return f"<txamqp091.wire.method {kind.__name__}>"
