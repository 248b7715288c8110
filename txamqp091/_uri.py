# -*- test-case-name: txamqp091.test.unit.client.test_parameters -*-
"""
The grammar of ``amqp://`` and ``amqps://``, as RabbitMQ specifies it.

This module splits a URI and resolves its percent-escapes; `txamqp091.parameters` gives
the parts their meaning.  The errors of general URI libraries quote the text, which has
the password in it; no error here quotes what can be a part of a password.
"""

from __future__ import annotations

__all__ = ["URI", "parse"]

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import unquote_to_bytes

from txamqp091.errors import InvalidURI

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_NOT_IN_HOST = re.compile(r"[\x00-\x20\x7f/?#@\[\]\\:,%]|[\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_LITERAL = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class URI:
    """
    The parts of a URI, unescaped.  A part that is absent is None: so is the virtual
    host of ``amqp://h``; that of ``amqp://h/`` is "".

    :ivar query: names and values, in their order.
    """

    secure: bool
    username: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    virtual_host: str | None
    query: tuple[tuple[str, str], ...]


def parse(uri: str | bytes) -> URI:
    """
    Split a URI into its parts.

    :raises InvalidURI: the text names the part that is wrong, and does not quote it.
    """
    try:
        return _parse(uri)
    except InvalidURI as error:
        problem = str(error)
    # Raised afresh: the stack of the first has pieces of the password on it.
    del uri
    raise InvalidURI(problem)


def _parse(uri: str | bytes) -> URI:
    if isinstance(uri, bytes):
        # What is not UTF-8 becomes surrogates, as in arguments and in the environment.
        uri = uri.decode("utf-8", "surrogateescape")
    if not isinstance(uri, str):
        raise InvalidURI(f"a URI is text, not {type(uri).__name__}")
    if _SURROGATES.search(uri):
        raise InvalidURI(
            "the URI is not UTF-8; other bytes are written as percent-escapes, "
            "such as %E4"
        )
    if any(each <= " " or each == "\x7f" or each.isspace() for each in uri):
        raise InvalidURI("the URI has a space or a control character in it")
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() not in ("amqp", "amqps"):
        raise InvalidURI("the URI begins with neither amqp:// nor amqps://")
    if "#" in rest:
        raise InvalidURI(
            "the URI has a fragment, which has no meaning here; "
            "a '#' in a password or a virtual host is written %23"
        )
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in path or "@" in query:
        # It is more likely the end of a password than anything else, and
        # then none of what follows would be what it seems.
        raise InvalidURI(
            "the URI has an '@' behind its first '/' or '?'; in a password "
            "'/' is written %2F and '?' %3F, and elsewhere '@' %40"
        )
    if "/" in path:
        raise InvalidURI(
            "the virtual host has a '/' in it, which is written %2F "
            "(the virtual host '/' is amqp://host/%2F, or amqp://host)"
        )
    userinfo, at, hostport = authority.rpartition("@")
    username, colon, password = userinfo.partition(":")
    host, port = _host_and_port(hostport)
    return URI(
        scheme.lower() == "amqps",
        _unescape(username, "user name") if at else None,
        _unescape(password, "password") if colon else None,
        host,
        port,
        _unescape(path, "virtual host") if slash else None,
        tuple(_pair(each) for each in query.split("&") if each),
    )


def _unescape(text: str, part: str) -> str:
    """
    Resolve percent-escapes.  Bytes that are not UTF-8 become surrogates, and are sent
    unchanged.
    """
    if _BAD_ESCAPE.search(text):
        raise InvalidURI(
            f"the {part} has a '%' that two hexadecimal digits do not follow; "
            "'%' itself is written %25"
        )
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _host_and_port(text: str) -> tuple[str | None, int | None]:
    if "," in text:
        raise InvalidURI(
            "the URI names several hosts; it can name one, "
            "so make one set of parameters for each"
        )
    if text.startswith("["):
        match = _LITERAL.fullmatch(text)
        host = _unescape(match[1], "host") if match else ""
        try:
            IPv6Address(host)
        except ValueError:
            raise InvalidURI("the host in brackets is no IPv6 address") from None
        assert match is not None
        return host, _port(match[2])
    name, colon, port = text.partition(":")
    if ":" in port:
        raise InvalidURI(
            "the host has more than one ':'; an IPv6 address goes in brackets"
        )
    host = _unescape(name, "host")
    if _NOT_IN_HOST.search(host):
        raise InvalidURI("the host has a character that no host name has")
    return host or None, _port(port if colon else None)


def _port(text: str | None) -> int | None:
    if not text:  # RFC 3986 allows for a ':' without a port
        return None
    # Not quoted: after a '/' in a password this is the password's beginning.
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise InvalidURI(
            "the port is not a number from 1 to 65535 "
            "(a '/' in a password is written %2F)"
        )
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = _unescape(name, "query")
    if not equals:
        raise InvalidURI(f"the parameter {name!r} has no value")
    return name, _unescape(value, f"parameter {name!r}")
