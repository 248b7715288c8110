# -*- test-case-name: txamqp091.test.unit.daemon.test_process -*-
"""
The statuses that the daemon exits with, and which one tells of what.
"""

from __future__ import annotations

__all__ = ["ExitStatus", "exit_status"]

from enum import IntEnum

from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ChannelClosed,
    Closed,
    LocalProtocolError,
    NotAllowed,
    NotFound,
    NotImplementedByBroker,
    RemoteProtocolError,
    TLSFailed,
    TopologyFailed,
    VhostAccessRefused,
)
from txamqp091.service.retry import is_permanent, is_refusal


class ExitStatus(IntEnum):
    """
    How the daemon ended, as its exit status: the numbers of BSD's ``sysexits.h`` with
    meanings that are as near to it as can be, and 79 and 80, which are our own.

    :ivar meaning: what it means, in a few words.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitStatus:
        """
        A member: a number that knows what it means.
        """
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    OK = 0, "stopped by a signal; every handler had finished"
    USAGE = 64, "the command line cannot be understood"
    DIFFERENT = 65, "what --diff has found is not as the settings declare it"
    NO_QUEUE = 66, "the queue does not exist, and --declare was not given"
    NO_VHOST = 68, "the virtual host does not exist, or is not for this user"
    UNAVAILABLE = 69, "no broker, until --give-up-after had passed"
    SOFTWARE = 70, "an unexpected error; its traceback is in the log"
    NO_HANDLER = 72, "the handler is not there, or its module cannot be imported"
    REFUSED = 73, "the broker refuses to declare the queue, or to consume from it"
    LOST = 74, "the connection was lost, until --give-up-after had passed"
    PROTOCOL = 76, "the peer does not speak AMQP 0-9-1, or TLS failed"
    NO_PERMISSION = 77, "the password is wrong, or the user may not use the queue"
    CONFIG = 78, "the URI, the password file or another setting is wrong"
    UNFINISHED = 79, "stopped by a signal; handlers ran into the time limit"
    HALTED = 80, "a handler said Halt, or failed where that ends the daemon"


#: What a service ended with before it consumed; the first that fits counts.
_BEFORE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (AuthenticationFailed, ExitStatus.NO_PERMISSION),
    (VhostAccessRefused, ExitStatus.NO_VHOST),
    (TLSFailed, ExitStatus.PROTOCOL),
    (RemoteProtocolError, ExitStatus.PROTOCOL),
    (NotFound, ExitStatus.NO_QUEUE),
    (AccessRefused, ExitStatus.NO_PERMISSION),
    (ChannelClosed, ExitStatus.REFUSED),
    (Closed, ExitStatus.UNAVAILABLE),
    (LocalProtocolError, ExitStatus.CONFIG),
)

#: And while it consumed: the broker may change its mind about who we are.
_WHILE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    *_BEFORE[:4],
    (Closed, ExitStatus.LOST),
)


def exit_status(error: BaseException | None, consuming: bool) -> ExitStatus:
    """
    The exit status for what a consumer ended with.

    :param consuming: whether it had got as far as to consume.
    """
    if isinstance(error, TopologyFailed):
        # What is to be said of the first one that will not pass by itself.
        errors = [each for _, each in error.failures]
        error = next((each for each in errors if is_permanent(each)), errors[0])
        consuming = False
    if is_refusal(error):
        consuming = False  # it is as if it never had
    if isinstance(error, NotAllowed | NotImplementedByBroker) and error.operation in (
        "basic.consume",
        "queue.declare",
    ):
        return ExitStatus.REFUSED  # though it has cost the connection
    for kind, status in _WHILE if consuming else _BEFORE:
        if isinstance(error, kind):
            return status
    return ExitStatus.SOFTWARE
