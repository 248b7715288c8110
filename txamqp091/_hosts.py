# -*- test-case-name: txamqp091.test.unit.client.test_hosts -*-
"""
Host names, as resolvers and TLS need them.

Twisted, asyncio and the socket module disagree about names with underscores, with
other letters than ASCII's, and with numbers only.  This module decides for all of them,
so that one name means one host on every event loop.
"""

from __future__ import annotations

__all__ = ["ascii_host", "is_address"]

import re
from ipaddress import ip_address

from txamqp091.errors import InvalidURI, printable

# The dots of IDNA: RFC 3490, section 3.1.
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_LABEL = re.compile("[A-Za-z0-9_-]+")
# What C libraries read as an IPv4 address, or as a part of one: 2130706433, 0x7f.1.
_NUMBER = re.compile("[0-9]+|0[xX][0-9A-Fa-f]*")


def is_address(host: str) -> bool:
    """
    Whether a host is an IP address, which may have a zone: ``fe80::1%eth0``.
    """
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def ascii_host(host: str) -> str:
    """
    Make the ASCII form of a host name.  Other letters are encoded by IDNA 2008, after
    the mapping of Unicode's UTS 46.  Underscores are allowed, as Docker and Kubernetes
    have them, and a dot at the end stays.  An IP address is returned unchanged.

    :raises InvalidURI: no host has this name.
    """
    if is_address(host):
        return host
    name, labels = host, _DOTS.split(host)
    absolute = len(labels) > 1 and not labels[-1]
    if absolute:
        labels.pop()
    encoded = [_label(name, each) for each in labels]
    if _NUMBER.fullmatch(encoded[-1]):
        raise _refusal(name, "ends in a number, and is not an IP address")
    text = ".".join(encoded)
    if len(text) > 253:
        raise _refusal(name, "is longer than 253 characters")
    return f"{text}." if absolute else text


def _label(name: str, label: str) -> str:
    if not label:
        raise _refusal(name, "has an empty part between its dots")
    if not label.isascii():
        import idna  # only here: few names need it

        problem = ""
        try:
            label = idna.encode(label, uts46=True).decode("ascii")
        except UnicodeError as error:
            problem = printable(str(error))
        if problem:
            raise _refusal(name, f"cannot be encoded by IDNA: {problem}")
    if not _LABEL.fullmatch(label):
        raise _refusal(name, "has a character that no host name has")
    if len(label) > 63:
        raise _refusal(name, "has a part of more than 63 characters between its dots")
    return label


def _refusal(name: str, problem: str) -> InvalidURI:
    return InvalidURI(f"the host name {printable(name)!r} {problem}")
