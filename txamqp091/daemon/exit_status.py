# -*- test-case-name: txamqp091.test.unit.daemon.test_process -*-
"""
Exit statuses of the daemon, and the errors that they stand for.
"""

from __future__ import annotations

__all__ = ["ExitStatus", "Status", "exit_status"]

from enum import IntEnum
from typing import Self

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


class Status(IntEnum):
    """
    An exit status.

    :ivar meaning: what the status means.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        """
        Make a member of a number and its meaning.
        """
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member


class ExitStatus(Status):
    """
    How the daemon ended: the numbers of BSD's ``sysexits.h`` with meanings close to
    theirs, and 79 to 81, which are our own.
    """

    OK = 0, "stopped by a signal; every handler finished"
    USAGE = 64, "the command line is wrong"
    DIFFERENT = 65, "--diff found something missing or different"
    NO_QUEUE = 66, "a queue does not exist, and declare is not set"
    NO_VHOST = 68, "the virtual host does not exist, or the user may not use it"
    UNAVAILABLE = 69, "no broker took the connection until --give-up-after had passed"
    SOFTWARE = 70, "an unexpected error; the log has its traceback"
    NO_HANDLER = 72, "a handler does not exist, or its module cannot be imported"
    REFUSED = 73, "the broker refuses to declare a queue, or to consume from it"
    LOST = 74, "the connection was lost until --give-up-after had passed"
    PROTOCOL = 76, "the peer does not speak AMQP 0-9-1, or TLS failed"
    NO_PERMISSION = 77, "the password is wrong, or the user may not use a queue"
    CONFIG = 78, "the URI, the password file or another setting is wrong"
    UNFINISHED = 79, "stopped by a signal; handlers exceeded the time limit"
    HALTED = 80, "a handler raised Halt, or failed with on_error = halt"
    STARTUP = 81, "the function that startup names failed"


#: What waiting does not correct, whether the daemon has consumed or not.
_PERMANENT: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (AuthenticationFailed, ExitStatus.NO_PERMISSION),
    (VhostAccessRefused, ExitStatus.NO_VHOST),
    (TLSFailed, ExitStatus.PROTOCOL),
    (RemoteProtocolError, ExitStatus.PROTOCOL),
    (LocalProtocolError, ExitStatus.CONFIG),
)

#: Errors of a daemon that never consumed.  The first class that fits counts.
_BEFORE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (NotFound, ExitStatus.NO_QUEUE),
    (AccessRefused, ExitStatus.NO_PERMISSION),
    (ChannelClosed, ExitStatus.REFUSED),
    (Closed, ExitStatus.UNAVAILABLE),
)

#: Errors of a daemon that has consumed.
_AFTER: tuple[tuple[type[Exception], ExitStatus], ...] = ((Closed, ExitStatus.LOST),)


def exit_status(error: BaseException | None, consumed: bool) -> ExitStatus:
    """
    The exit status for an error that ended the daemon.

    :param consumed: whether a consumer was subscribed before.
    """
    if isinstance(error, TopologyFailed):
        # The first refusal that waiting does not correct.
        errors = [each for _, each in error.failures]
        error = next((each for each in errors if is_permanent(each)), errors[0])
        consumed = False
    if isinstance(error, NotAllowed | NotImplementedByBroker) and error.operation in (
        "basic.consume",
        "queue.declare",
    ):
        return ExitStatus.REFUSED  # though it ended the connection
    consumed = consumed and not is_refusal(error)
    rules = _AFTER if consumed else _BEFORE
    if is_permanent(error):
        rules = _PERMANENT + rules
    return next(
        (status for kind, status in rules if isinstance(error, kind)),
        ExitStatus.SOFTWARE,
    )
