# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
Reads settings from a file in TOML, from environment variables, which override the file,
and from the command line, which overrides both; and tells which settings have changed.

The settings themselves are in `txamqp091.daemon.settings`.
"""

from __future__ import annotations

__all__ = [
    "CONFIG_VARIABLE",
    "PREFIX",
    "differences",
    "load",
    "reloaded",
    "unknown_variables",
    "variables",
]

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from txamqp091.daemon.broker_login import LOGIN_VARIABLES
from txamqp091.daemon.consumer_settings import ConsumerSettings
from txamqp091.daemon.settings import LogSettings, Settings
from txamqp091.daemon.settings_schema import Problem, build, from_text, settings_of

#: What the names of our environment variables begin with.
PREFIX = "TXAMQP091_"

#: The one that names the file.
CONFIG_VARIABLE = "TXAMQP091_CONFIG"

S = TypeVar("S")


def load(
    path: str | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    consumer: Mapping[str, Any] | None = None,
    *,
    without_consumers: bool = False,
) -> Settings:
    """
    Read and check all settings.

    :param path: the file, if there is one.
    :param flags: values of the command line, by their settings, such as ``log.level``.
        A setting that begins with ``consumers.`` is for each consumer.
    :param consumer: a consumer to add.
    :param without_consumers: whether there may be no consumers.
    :raises Problem: something is wrong.  The path of the problem begins with the file,
        or is the name of a variable or a flag.
    """
    data = {} if path is None else _read(path)
    if consumer is not None:
        data.setdefault("consumers", []).append(dict(consumer))
    try:
        _merge_environment(data, environ)
        for name, text in flags.items():
            _merge_flag(data, name, text)
        settings = build(Settings, data).completed()
        settings.validate(without_consumers=without_consumers)
    except Problem as problem:
        if path is None or problem.path.startswith((PREFIX, "--")):
            raise
        raise Problem(f"{path}: {problem.path}", problem.text) from None
    return settings


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Problem(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Problem(path, "cannot be read: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Its text tells a place, and no more of the file than one character.
        raise Problem(path, f"is not TOML: {error}") from None


def variables(settings: type = Settings, prefix: str = PREFIX) -> Iterator[str]:
    """
    The names of the environment variables that set something; those of a consumer have
    ``<NAME>`` in them.
    """
    for each, hint in settings_of(settings):
        kind = _table(hint)
        name = each.name.upper()
        if kind is ConsumerSettings:
            yield from variables(kind, f"{prefix}{name}_<NAME>_")
        elif kind is not None:
            yield from variables(kind, f"{prefix}{name}_")
        elif each.metadata["variable"]:
            yield f"{prefix}{name}"


def _table(hint: Any) -> type | None:
    """
    The dataclass in the type of a field.
    """
    for each in (hint, *getattr(hint, "__args__", ())):
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            return each
    return None


def _merge_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    """
    Put the values of variables into the tables.

    :raises Problem: a value is wrong, or a variable is a setting of two consumers.
    """
    _merge(Settings, data, environ, PREFIX)
    users: dict[str, str] = {}
    for entry in _entries(data):
        label = str(entry.get("name") or entry.get("queue"))
        for name in _merge(ConsumerSettings, entry, environ, _consumer_prefix(label)):
            other = users.setdefault(name, label)
            if other != label:
                raise Problem(
                    name,
                    f"sets both the consumers {other!r} and {label!r}: give one of "
                    "them another name",
                )


def _entries(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    The tables of the consumers, as far as they are tables.
    """
    entries = data.get("consumers")
    if not isinstance(entries, list):
        return []
    return [each for each in entries if isinstance(each, dict)]


def _consumer_prefix(label: str) -> str:
    return f"{PREFIX}CONSUMERS_{re.sub('[^A-Z0-9]', '_', label.upper())}_"


def _merge(
    kind: type, data: dict[str, Any], environ: Mapping[str, str], prefix: str
) -> list[str]:
    """
    Put the values of variables into a table.

    :returns: the variables.
    """
    used = []
    for each, hint in settings_of(kind):
        table = _table(hint)
        name = f"{prefix}{each.name.upper()}"
        if table is ConsumerSettings:
            continue
        if table is not None:
            inner = data.get(each.name, {})
            if isinstance(inner, dict):
                used += _merge(table, inner, environ, f"{name}_")
                if inner:
                    data[each.name] = inner
        elif each.metadata["variable"] and environ.get(name):
            data[each.name] = _from_text(kind, each.name, environ[name], name)
            used.append(name)
    return used


def _merge_flag(data: dict[str, Any], path: str, text: str) -> None:
    """
    Put the value of a flag into its table.
    """
    table, _, key = path.rpartition(".")
    flag = "--" + path.removeprefix("consumers.").replace(".", "-").replace("_", "-")
    if table == "consumers":
        value = _from_text(ConsumerSettings, key, text, flag)
        for entry in _entries(data):
            entry[key] = value
    elif table == "log":
        inner = data.setdefault("log", {})
        if isinstance(inner, dict):
            inner[key] = _from_text(LogSettings, key, text, flag)
    else:
        data[key] = _from_text(Settings, key, text, flag)


def _from_text(kind: type, key: str, text: str, name: str) -> Any:
    """
    Convert a text to a value.

    :raises Problem: the text is wrong; it names the variable or the flag.
    """
    [(each, hint)] = [pair for pair in settings_of(kind) if pair[0].name == key]
    value = from_text(each, hint, text, name)
    needed = {"queue": "q", "handler": "h"} if kind is ConsumerSettings else {}
    try:
        build(kind, {**needed, key: value})
    except Problem as problem:
        raise Problem(name, problem.text) from None
    return value


def unknown_variables(environ: Mapping[str, str], settings: Settings) -> list[str]:
    """
    Variables with our prefix that set nothing, each with a guess at what was meant.
    """
    known = {*LOGIN_VARIABLES, CONFIG_VARIABLE}
    for name in variables():
        for consumer in settings.consumers:
            prefix = _consumer_prefix(consumer.label)
            known.add(name.replace(f"{PREFIX}CONSUMERS_<NAME>_", prefix))
    found = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, known, 1)
            found.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return found


# -- changes while the daemon runs -----------------------------------------------------


def differences(old: object, new: object, path: str = "") -> Iterator[tuple[str, bool]]:
    """
    The settings that differ.

    :returns: the path of each, and whether it can change while the daemon runs.
    """
    for each, _ in settings_of(type(old)):
        before, after = getattr(old, each.name), getattr(new, each.name)
        where = f"{path}.{each.name}" if path else each.name
        if before == after:
            continue
        if type(before) is type(after) and dataclasses.is_dataclass(before):
            yield from differences(before, after, where)
        elif each.name == "consumers":
            yield from _consumer_differences(before, after)
        else:
            yield where, each.metadata["reload"]


def _consumer_differences(
    before: tuple[ConsumerSettings, ...], after: tuple[ConsumerSettings, ...]
) -> Iterator[tuple[str, bool]]:
    old = {each.label: each for each in before}
    new = {each.label: each for each in after}
    for label in dict.fromkeys([*old, *new]):
        where = f"consumers.{label}"
        if label not in old or label not in new:
            yield where, False
        else:
            yield from differences(old[label], new[label], where)


def reloaded(old: Settings, new: Settings) -> Settings:
    """
    The old settings, with the new values of those that can change while the daemon
    runs.

    :raises Problem: these do not agree with each other.
    """
    settings = _changed(old, new)
    found = {each.label: each for each in new.consumers}
    consumers = tuple(
        _changed(each, found.get(each.label, each)) for each in old.consumers
    )
    settings = dataclasses.replace(settings, consumers=consumers)
    settings.validate()
    return settings


def _changed(old: S, new: S) -> S:
    changes: dict[str, Any] = {}
    for each, _ in settings_of(type(old)):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.metadata["reload"]:
            changes[each.name] = after
        elif dataclasses.is_dataclass(before) and type(before) is type(after):
            changes[each.name] = _changed(before, after)
    replaced: S = dataclasses.replace(old, **changes)  # type: ignore[type-var]
    return replaced
