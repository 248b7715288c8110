# -*- test-case-name: txamqp091.test.unit.daemon.test_handler_loading -*-
"""
Finds handlers by their names, and refuses functions that cannot be handlers.
"""

from __future__ import annotations

__all__ = ["HandlerNotFound", "load_function", "load_handler", "load_object"]

import inspect
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from txamqp091.consumer import Handler
from txamqp091.errors import printable
from txamqp091.worker.handler_publisher import wants_publisher


class HandlerNotFound(Exception):
    """
    A handler does not exist, or cannot be a handler.
    """


def load_handler(name: str, arguments: int = 1) -> Handler:
    """
    Import a handler.

    :param arguments: how many arguments it is called with.

    :param name: ``package.module:function``; after the colon may be an attribute of an
        attribute, such as ``shop:orders.take``.
    :raises ValueError: the name has another form.
    :raises HandlerNotFound: the module or function does not exist, the module cannot
        be imported, or the function cannot be called with a delivery.
    """
    found = load_object(name)
    _check(found, name, arguments)
    return found  # type: ignore[return-value]


def load_function(name: str) -> Callable[..., Any]:
    """
    Import a function that is no handler.

    :raises ValueError: the name has another form.
    :raises HandlerNotFound: there is no such function.
    """
    found = load_object(name)
    if not callable(found):
        raise HandlerNotFound(f"{name} is a {type(found).__name__}, not a function")
    return found


def load_object(name: str) -> object:
    """
    Import an object by its name, as `load_handler` does.
    """
    module_name, colon, path = name.partition(":")
    names = [*module_name.split("."), *path.split(".")]
    if not colon or not all(each.isidentifier() for each in names):
        raise ValueError(f"{name!r} does not have the form package.module:function")
    found = _import(module_name)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise HandlerNotFound(
                f"the module {module_name} has no {path} "
                f"({getattr(found, '__file__', None) or type(found).__name__})"
            ) from None
    return found


def _import(name: str) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # The handler's own imports may be what is missing.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise HandlerNotFound(
                f"there is no module {error.name}, neither among the installed "
                "packages nor in the current folder"
            ) from None
        problem = _describe(error)
    except Exception as error:
        problem = _describe(error)
    except SystemExit as error:
        problem = f"it raises SystemExit({error.code!r})"
    raise HandlerNotFound(f"the module {name} cannot be imported: {problem}")


def _describe(error: Exception) -> str:
    """
    An error in one line, with the file and line that raised it.
    """
    text = printable(traceback.format_exception_only(error)[-1].strip())
    if isinstance(error, SyntaxError):
        return f"{text} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    last = [each for each in frames if not each.filename.startswith("<frozen")][-1]
    return f"{text} ({last.filename}, line {last.lineno})"


def _check(found: object, name: str, arguments: int) -> None:
    """
    Refuse what cannot be called with a message, or would do nothing with it.
    """
    if not callable(found):
        raise HandlerNotFound(f"{name} is a {type(found).__name__}, not a function")
    if inspect.isclass(found):
        raise HandlerNotFound(f"{name} is a class, not a function")
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        # A call would run nothing, and acknowledge the message.
        raise HandlerNotFound(
            f"{name} is a generator function: add @inlineCallbacks, or remove its yield"
        )
    more = {"publisher": object()} if wants_publisher(found) else {}
    try:
        inspect.signature(found).bind(*[object()] * arguments, **more)
    except TypeError:
        what = "a delivery as its one argument"
        if arguments == 2:
            what = "a decoded body and a delivery"
        raise HandlerNotFound(f"{name} cannot be called with {what}") from None
    except ValueError:  # a function in C has no signature
        pass
