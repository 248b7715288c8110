# -*- test-case-name: txamqp091.test.unit.client.test_immediate -*-
"""
Writes to the socket in the same turn of the reactor: `immediate_write`.

This is the only module that looks at Twisted's TCP transport.
"""

from __future__ import annotations

__all__ = ["immediate_write", "is_plain_tcp"]

import sys
from collections.abc import Callable
from typing import Any


def is_plain_tcp(transport: Any) -> bool:
    """
    Whether bytes go through Twisted's own TCP transport, without TLS.
    """
    # Not imported: whoever made such a transport has loaded the module.
    module = sys.modules.get("twisted.internet.tcp")
    return (
        module is not None
        and isinstance(transport, module.Connection)
        and not transport.TLS
    )


def immediate_write(
    transport: Any, failed: Callable[[Exception], object]
) -> Callable[[bytes], object]:
    """
    The ``write`` of a transport, or a function that does the same sooner.

    Twisted's TCP transport passes bytes to the kernel in the next turn of the reactor,
    and asks epoll for that turn.  Where nothing waits before the bytes, they can go at
    once: a call of the broker costs three quarters, and bursts of messages hardly ever
    wait here.  Of Twisted's transport this uses what its base classes use of one
    another.  Every other transport, such as that of TLS, is written to as ever.

    :param failed: called with the error of a socket that takes nothing any more.  The
        transport reads what is left, and may then call that an orderly end.
    """
    if not is_plain_tcp(transport):
        return transport.write  # type: ignore[no-any-return]
    send, write = transport.writeSomeData, transport.write

    def write_now(data: bytes) -> None:
        if (
            transport.dataBuffer
            or transport._tempDataBuffer
            or transport.disconnecting
            or not transport.connected
            or transport.TLS
        ):
            write(data)
            return
        sent = send(data)
        if sent == len(data):
            return
        if isinstance(sent, Exception):
            failed(sent)
        # What is left; or all, for the reactor to find out that the connection is lost.
        write(data[sent:] if isinstance(sent, int) and sent > 0 else data)

    return write_now
