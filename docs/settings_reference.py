"""
The reference of the daemon's settings in reST, made from the settings themselves.

``python docs/settings_reference.py`` prints the part of ``docs/reference/settings.rst``
that follows the introduction; ``--update`` writes it into that file.
"""

from __future__ import annotations

__all__ = ["reference"]

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field
from enum import Enum
from pathlib import Path
from textwrap import fill
from typing import Any

from txamqp091.daemon.consumer_settings import ConsumerSettings, RetrySettings
from txamqp091.daemon.settings import LogSettings, ReconnectSettings, Settings
from txamqp091.daemon.settings_loading import PREFIX
from txamqp091.daemon.settings_schema import settings_of
from txamqp091.daemon.tokens import TokenSettings
from txamqp091.worker.stream_offsets import StreamOffset

_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    StreamOffset: "string, integer or time",
}

_TABLES: tuple[tuple[str, type, str], ...] = (
    ("The top of the file", Settings, PREFIX),
    ("``[token]``", TokenSettings, f"{PREFIX}TOKEN_"),
    ("``[reconnect]``", ReconnectSettings, f"{PREFIX}RECONNECT_"),
    ("``[log]``", LogSettings, f"{PREFIX}LOG_"),
    ("``[[consumers]]``", ConsumerSettings, f"{PREFIX}CONSUMERS_<NAME>_"),
    ("``[consumers.retry]``", RetrySettings, f"{PREFIX}CONSUMERS_<NAME>_RETRY_"),
)


def reference() -> str:
    """
    All settings, in reST.
    """
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for title, kind, prefix in _TABLES:
        yield title
        yield "-" * len(title)
        yield ""
        for each, hint in settings_of(kind):
            yield f"``{each.name}``"
            yield _wrapped(_about(each, hint))
            if each.metadata["variable"] and _item(hint) not in _TYPED_TABLES:
                yield _wrapped(f"``{prefix}{each.name.upper()}``")
            yield ""


def _wrapped(text: str) -> str:
    return fill(
        text,
        88,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    ) + ("\n" if text.startswith("*") else "")


def _about(each: Field[Any], hint: Any) -> str:
    facts = [_type(hint)]
    default = _default(each)
    if default:
        facts.append(default)
    if each.metadata["reload"]:
        facts.append("can change while the daemon runs")
    return f"*{', '.join(facts)}.*  {each.metadata['doc']}"


def _default(each: Field[Any]) -> str:
    if each.default is MISSING:
        return "required" if each.default_factory is MISSING else ""
    value = each.default
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = f"[{', '.join(f'{one:g}' for one in value)}]"
    if isinstance(value, float):
        value = f"{value:g}"
    return f"default {value}"


def _item(hint: Any) -> Any:
    """
    The type itself, without ``| None`` and what a list is of.
    """
    arguments = [one for one in typing.get_args(hint) if one is not types.NoneType]
    listed = typing.get_origin(hint) in (tuple, types.UnionType, typing.Union)
    return arguments[0] if listed and arguments else hint


def _type(hint: Any) -> str:
    item = _item(hint)
    if typing.get_origin(item) is dict or dataclasses.is_dataclass(item):
        name = "table"
    elif isinstance(item, type) and issubclass(item, Enum):
        name = "one of " + ", ".join(str(one.value) for one in item)
    else:
        name = _TYPES[item]
    return f"list of {name}s" if typing.get_origin(hint) is tuple else name


_TYPED_TABLES = (
    ConsumerSettings,
    LogSettings,
    ReconnectSettings,
    RetrySettings,
    TokenSettings,
)


def update(path: Path) -> None:
    """
    Replace the reference in a page.
    """
    introduction, heading, _ = path.read_text().partition(f"\n{_TABLES[0][0]}\n---")
    assert heading, f"{path} has no reference"
    path.write_text(f"{introduction}\n{reference()}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        update(Path(__file__).with_name("reference") / "settings.rst")
    else:
        sys.stdout.write(reference())
