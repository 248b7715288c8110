# -*- test-case-name: txamqp091.test.unit.daemon.test_settings_schema -*-
"""
Makes frozen dataclasses from plain data, such as a TOML file: it refuses unknown keys,
wrong types and values out of bounds, and names the place.

It knows nothing about the meaning of the settings, which are in
`txamqp091.daemon.settings`.  A type with several forms of values has a class method
``from_setting``, which raises ``ValueError``.
"""

from __future__ import annotations

__all__ = ["Problem", "build", "from_text", "setting", "settings_of"]

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Problem(ValueError):
    """
    A setting is wrong.

    :ivar path: the setting, such as ``consumers[0].prefetch``.
    :ivar text: what is wrong.
    """

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path, text)
        self.path = path
        self.text = text

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def setting(
    doc: str,
    default: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    reload: bool = False,
    secret: bool = False,
    variable: bool = True,
) -> Any:
    """
    A field of a dataclass of settings.

    :param doc: the documentation: one sentence or two, in reST.
    :param least: the least value of a number, or of each number of a list.
    :param most: the greatest value.
    :param reload: whether the setting can change while the program runs.
    :param secret: whether its value must not be shown.
    :param variable: whether an environment variable can set it.
    """
    metadata = {
        "doc": doc,
        "least": least,
        "most": most,
        "reload": reload,
        "secret": secret,
        "variable": variable,
    }
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        made = default
        return dataclasses.field(
            default_factory=lambda: made, metadata=metadata, repr=not secret
        )
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def settings_of(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    """
    The fields of a dataclass of settings, with their types.
    """
    hints = get_type_hints(kind)
    for each in dataclasses.fields(kind):
        if "doc" in each.metadata:
            yield each, hints[each.name]


def build(kind: type[T], data: object, path: str = "") -> T:
    """
    Make an object of settings.

    :param data: a dict of plain values, lists and dicts.
    :raises Problem: something in it is wrong.
    """
    if not isinstance(data, Mapping):
        raise Problem(path, f"is {_what(data)}, not a table")
    known = dict(settings_of(kind))
    names = {each.name: (each, hint) for each, hint in known.items()}
    for name in data:
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Problem(_join(path, str(name)), f"there is no such setting{hint}")
    values = {}
    for name, (each, hint) in names.items():
        if name in data:
            values[name] = _value(each, hint, data[name], _join(path, name))
        elif each.default is MISSING and each.default_factory is MISSING:
            raise Problem(_join(path, name), "is missing")
    return kind(**values)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(each: Field[Any], hint: Any, value: object, path: str) -> Any:
    """
    Check and convert the value of a field.
    """
    item = _item(hint)
    if item is None:
        return _plain(each, _optional(hint), value, path)
    if isinstance(item, type) and dataclasses.is_dataclass(item):
        if not isinstance(value, list):
            raise Problem(path, f"is {_what(value)}, not a list of tables")
        return tuple(
            build(item, entry, f"{path}[{place}]") for place, entry in enumerate(value)
        )
    # A single item stands for a list.
    entries = value if isinstance(value, list) else [value]
    return tuple(
        _plain(each, item, entry, f"{path}[{place}]" if value is entries else path)
        for place, entry in enumerate(entries)
    )


def _item(hint: Any) -> Any:
    """
    The type of the items of a list; None for other types.
    """
    return get_args(hint)[0] if get_origin(hint) is tuple else None


def _optional(hint: Any) -> Any:
    """
    The type behind ``| None``.
    """
    arguments = [each for each in get_args(hint) if each is not type(None)]
    return arguments[0] if arguments and get_origin(hint) is not dict else hint


def _plain(each: Field[Any], kind: Any, value: object, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return build(kind, value, path)
    if get_origin(kind) is dict or kind is dict:
        if not isinstance(value, dict):
            raise Problem(path, f"is {_what(value)}, not a table")
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [member.value for member in kind]
        if value not in choices:
            near = get_close_matches(str(value), choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Problem(path, f"is {value!r}, not one of {', '.join(choices)}{hint}")
        return kind(value)
    if hasattr(kind, "from_setting"):
        try:
            return kind.from_setting(value)
        except ValueError as error:
            raise Problem(path, str(error)) from None
    wanted = _NAMES[kind]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise Problem(path, f"is {_what(value)}, not {wanted}")
    if kind in (int, float):
        _check_bounds(each, value, path)
    elif kind is str and not value and each.default is MISSING:
        raise Problem(path, "is empty")
    return value


def _check_bounds(each: Field[Any], value: Any, path: str) -> None:
    least, most = each.metadata["least"], each.metadata["most"]
    if not math.isfinite(value):
        raise Problem(path, f"is {value}, not a finite number")
    if least is not None and value < least:
        raise Problem(path, f"is {value}, less than {least:g}")
    if most is not None and value > most:
        raise Problem(path, f"is {value}, more than {most:g}")


_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
}


def _what(value: object) -> str:
    """
    The type of a value, in words; the value may be a secret.
    """
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


# -- from text ---------------------------------------------------------------------


def from_text(each: Field[Any], hint: Any, text: str, name: str) -> Any:
    """
    Convert the text of an environment variable or a flag to a value.  This checks its
    form; `build` checks the rest.

    :param name: the variable, or the flag.
    """
    item = _item(hint)
    if item is not None:
        entries = [entry.strip() for entry in text.split(",")]
        return [_from_text(item, entry, name) for entry in entries if entry]
    return _from_text(_optional(hint), text, name)


def _from_text(kind: Any, text: str, name: str) -> Any:
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise Problem(name, f"is {text!r}, not true or false")
        return _BOOLEANS[text.lower()]
    if kind is int or kind is float:
        try:
            # Python accepts underscores, and the digits of all scripts.
            return kind(text if text.isascii() and "_" not in text else "")
        except ValueError:
            raise Problem(name, f"is {text!r}, not {_NAMES[kind]}") from None
    return text


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}
