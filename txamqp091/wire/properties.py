# -*- test-case-name: txamqp091.test.unit.wire.test_properties -*-
"""
The properties of a message (AMQP 0-9-1 §4.2.6.1, the class basic).

`Properties` holds either values, which it encodes once, or bytes from the
wire, which it decodes when somebody looks.  A message that was made badly must
not cost its consumer more than the property that is bad, so nothing is checked
before that; what is wrong is an `UndecodableProperty` where it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from txamqp091.errors import DecodeError, EncodeError, UndecodableProperty
from txamqp091.wire.types import (
    FIELD_DECODERS,
    FIELD_ENCODERS,
    OCTETS,
    FieldValue,
    Wire,
    decode_table,
)
from txamqp091.wire.values import brief

__all__ = ["EMPTY", "PROPERTY_TYPES", "Headers", "Properties", "around_message_id"]

#: The properties in wire order, with their types; the first has the highest of
#: the 16 flags.
PROPERTY_TYPES: Mapping[str, Wire] = MappingProxyType(
    {
        "content_type": Wire.SHORTSTR,
        "content_encoding": Wire.SHORTSTR,
        "headers": Wire.TABLE,
        "delivery_mode": Wire.OCTET,
        "priority": Wire.OCTET,
        "correlation_id": Wire.SHORTSTR,
        "reply_to": Wire.SHORTSTR,
        "expiration": Wire.SHORTSTR,
        "message_id": Wire.SHORTSTR,
        "timestamp": Wire.TIMESTAMP,
        "type": Wire.SHORTSTR,
        "user_id": Wire.SHORTSTR,
        "app_id": Wire.SHORTSTR,
        "cluster_id": Wire.SHORTSTR,
    }
)


class Headers(dict[str, FieldValue]):
    """
    The headers of a message: a dict that cannot be changed.  ``dict(headers)`` is a
    copy that can.
    """

    __slots__ = ()

    # To mypy they are what a Mapping has.
    if not TYPE_CHECKING:  # pragma: no branch

        def _refuse(self, *args, **kwargs):
            raise TypeError("headers cannot be changed: change a dict(headers)")

        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[object, ...]:
        return Headers, (dict(self),)

    def __copy__(self) -> Headers:
        return self


class Properties:
    """
    What a message says of itself.  It cannot be changed; `replace` makes
    another.  A property that is not there is ``None``.

    Values are checked when they are encoded, not when they are given.

    :ivar headers: a dict that cannot be changed, copied from the one given.
    :ivar delivery_mode: 2 to have the message survive the broker's restart, 1
        not to.
    :ivar priority: 0 to 255.
    :ivar expiration: how many milliseconds the message may wait in a queue, as
        digits; an int is written as such.
    :ivar timestamp: an aware datetime, in whole seconds on the wire.  What no
        datetime can hold is the number that the sender wrote, often in
        milliseconds.
    :ivar user_id: RabbitMQ checks that it is the name of the connection's user.
    :ivar encoded: flags and values as they go on the wire: made once, or those
        that came from there.
    """

    __slots__ = (*PROPERTY_TYPES, "_faults", "_headers_at", "encoded")

    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, FieldValue] | None
    delivery_mode: int | None
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: str | None
    message_id: str | None
    timestamp: datetime | int | None
    type: str | None
    user_id: str | None
    app_id: str | None
    cluster_id: str | None
    encoded: bytes

    # A slot that is empty has not been looked at yet: __getattr__ fills it.  One
    # that is full costs what an attribute costs.  The last two are for what came
    # from the wire: why properties cannot be read, by name, and where the table
    # of headers stands, or 0.
    _faults: dict[str, str]
    _headers_at: int

    def __init__(
        self,
        *,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, FieldValue] | None = None,
        delivery_mode: int | None = None,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: str | int | None = None,
        message_id: str | None = None,
        timestamp: datetime | int | None = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
        cluster_id: str | None = None,
    ):
        if isinstance(headers, Mapping):
            headers = Headers(headers)
        if isinstance(expiration, int) and not isinstance(expiration, bool):
            expiration = str(int(expiration))
        # One by one, as a loop takes twice as long.
        _set_content_type(self, content_type)
        _set_content_encoding(self, content_encoding)
        _set_headers(self, headers)
        _set_delivery_mode(self, delivery_mode)
        _set_priority(self, priority)
        _set_correlation_id(self, correlation_id)
        _set_reply_to(self, reply_to)
        _set_expiration(self, expiration)
        _set_message_id(self, message_id)
        _set_timestamp(self, timestamp)
        _set_type(self, type)
        _set_user_id(self, user_id)
        _set_app_id(self, app_id)
        _set_cluster_id(self, cluster_id)

    @classmethod
    def from_wire(cls, raw: bytes) -> Properties:
        """
        The properties in a content header.

        Nothing is decoded, and nothing can fail, before a property is read.

        :param raw: what follows the body's size: flags and values.
        """
        self = _new(cls)
        _set_encoded(self, raw)
        return self

    def encode(self) -> bytes:
        """
        Flags and values, as they follow the body's size in a content header.

        What came from the wire goes back as it came.  The second call costs
        nothing; reading ``encoded`` is the same, and saves the call.

        :raises EncodeError: naming the property that does not fit.
        """
        return self.encoded

    def replace(self, **changes: Any) -> Properties:
        """
        The same properties but for some.

        :param changes: as for the constructor; ``None`` removes a property.
        :raises UndecodableProperty: when one that is kept cannot be read.
        """
        for name in PROPERTY_TYPES:
            if name not in changes:
                changes[name] = getattr(self, name)
        return Properties(**changes)

    # Were mypy to see __getattr__, a misspelt property would pass for an object.
    if not TYPE_CHECKING:  # pragma: no branch

        def __getattr__(self, name):
            return _fill(self, name)

        def __setattr__(self, name, value):
            raise AttributeError(f"properties cannot be changed; use replace({name}=)")

        def __delattr__(self, name):
            raise AttributeError("properties cannot be changed; use replace()")

    def __reduce__(self) -> tuple[object, ...]:
        # A function, as twisted.persisted changes how methods are pickled.
        return _unpickled, (self.encoded,)

    def __copy__(self) -> Properties:
        return self

    def __deepcopy__(self, _: object) -> Properties:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Properties):
            return NotImplemented
        return _identity(self) == _identity(other)

    def __hash__(self) -> int:
        identity = _identity(self)
        if isinstance(identity, tuple):
            # Headers cannot be hashed; if they alone differ, __eq__ tells.
            identity = (*identity[:2], *identity[3:])
        return hash(identity)

    def __repr__(self) -> str:
        """
        The properties that are set.
        """
        shown = []
        for name in PROPERTY_TYPES:
            try:
                value = getattr(self, name)
            except UndecodableProperty:
                shown.append(f"{name}=<undecodable>")
                continue
            if value is not None:
                shown.append(f"{name}={value!r}")
        return f"Properties({', '.join(shown)})"


def _unpickled(raw: bytes) -> Properties:
    return Properties.from_wire(raw)


_new = object.__new__
_SETTERS: dict[str, Callable[[Properties, object], None]] = {
    name: vars(Properties)[name].__set__ for name in Properties.__slots__
}
(
    _set_content_type,
    _set_content_encoding,
    _set_headers,
    _set_delivery_mode,
    _set_priority,
    _set_correlation_id,
    _set_reply_to,
    _set_expiration,
    _set_message_id,
    _set_timestamp,
    _set_type,
    _set_user_id,
    _set_app_id,
    _set_cluster_id,
) = (_SETTERS[name] for name in PROPERTY_TYPES)
_set_encoded = _SETTERS["encoded"]

_FLAGS = {name: 1 << 15 - place for place, name in enumerate(PROPERTY_TYPES)}


def _identity(properties: Properties) -> tuple[object, ...] | bytes:
    """
    What makes properties equal: their values, or their bytes if not all of the
    values can be read.
    """
    try:
        return tuple([getattr(properties, name) for name in PROPERTY_TYPES])
    except UndecodableProperty as error:
        return error.raw


# -- encoding ---------------------------------------------------------------------


def _encode_delivery_mode(value: object, path: str) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool) and value in (1, 2):
        return OCTETS[value]
    raise EncodeError(
        path, f"expected 1 (transient) or 2 (persistent), not {brief(value)}"
    )


_ENCODERS = [
    (name, _FLAGS[name], FIELD_ENCODERS[wire])
    if name != "delivery_mode"
    else (name, _FLAGS[name], _encode_delivery_mode)
    for name, wire in PROPERTY_TYPES.items()
]


def _encode(properties: Properties) -> bytes:
    flags = 0
    parts = [b""]
    for name, flag, encode in _ENCODERS:
        value = getattr(properties, name)
        if value is not None:
            flags |= flag
            parts.append(encode(value, name))
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


def around_message_id(properties: Properties) -> tuple[bytes, bytes]:
    """
    The encoding that properties without a message_id would have with one: what comes
    before that string, and what comes after it.

    :raises EncodeError: naming the property that does not fit.
    :raises UndecodableProperty: when one cannot be read.
    """
    flags = _FLAGS["message_id"]
    before = parts = [b""]
    after: list[bytes] = []
    for name, flag, encode in _ENCODERS:
        if name == "message_id":
            parts = after
            continue
        value = getattr(properties, name)
        if value is not None:
            flags |= flag
            parts.append(encode(value, name))
    before[0] = flags.to_bytes(2, "big")
    return b"".join(before), b"".join(after)


# -- decoding ---------------------------------------------------------------------

_DECODERS = [
    (name, _FLAGS[name], FIELD_DECODERS[wire], _SETTERS[name])
    for name, wire in PROPERTY_TYPES.items()
]
_set_headers_at = _SETTERS["_headers_at"]
_read_length = struct.Struct(">I").unpack_from


def _fill(properties: Properties, name: str) -> object:
    """
    The value of a slot that is empty.
    """
    if name == "encoded":
        encoded = _encode(properties)
        _set_encoded(properties, encoded)
        return encoded
    if name == "_faults":
        faults = _scan(properties)
        _SETTERS["_faults"](properties, faults)
        return faults
    if name not in PROPERTY_TYPES:
        raise AttributeError(f"properties have no {name!r}")
    faults = properties._faults  # the first time this scans
    if name == "headers" and name not in faults and properties._headers_at:
        _decode_headers(properties, faults)
    if name in faults:
        raise UndecodableProperty(name, faults[name], properties.encoded)
    return getattr(properties, name)


def _scan(properties: Properties) -> dict[str, str]:
    """
    Decode every property but the headers, whose place is noted.

    :returns: what is wrong, for the properties that cannot be decoded.
    """
    raw = properties.encoded
    position = 2
    flags = int.from_bytes(raw[:2], "big")
    # More flags would follow, ahead of the values.  AMQP has no properties for
    # them; any values of theirs come last and are left alone.
    more = flags & 1
    while more:
        more = int.from_bytes(raw[position : position + 2], "big") & 1
        position += 2
    if position > len(raw):
        return dict.fromkeys(PROPERTY_TYPES, "the flags of the properties end early")
    faults: dict[str, str] = {}
    malformed = ""
    _set_headers_at(properties, 0)
    for name, flag, decode, fill in _DECODERS:
        if not flags & flag:
            fill(properties, None)
        elif malformed:
            faults[name] = f"it follows {malformed}, which is malformed"
        else:
            try:
                if name == "headers":
                    _set_headers_at(properties, position)
                    position = _end_of_table(raw, position)
                else:
                    value, position = decode(raw, position, name)
                    fill(properties, value)
            except DecodeError as error:
                malformed = name
                faults[name] = error.reply_text.removeprefix(f"{name}: ")
    return faults


def _end_of_table(raw: bytes, position: int) -> int:
    if position + 4 > len(raw):
        raise DecodeError("ends within its length")
    length: int = _read_length(raw, position)[0]
    left = len(raw) - position - 4
    if length > left:
        raise DecodeError(f"{length} bytes are announced, {left} are there")
    return position + 4 + length


def _decode_headers(properties: Properties, faults: dict[str, str]) -> None:
    raw = properties.encoded
    try:
        headers, _ = decode_table(raw, properties._headers_at, len(raw), path="headers")
    except DecodeError as error:
        faults["headers"] = error.reply_text.removeprefix("headers: ")
    else:
        _set_headers(properties, Headers(headers))


#: Properties of which none is set.
EMPTY = Properties()
