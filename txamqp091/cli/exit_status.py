# -*- test-case-name: txamqp091.test.unit.cli.test_program -*-
"""
Exit statuses of the command line.
"""

from __future__ import annotations

__all__ = ["CommandStatus", "status_of"]

from txamqp091.daemon.exit_status import Status, exit_status
from txamqp091.errors import Nacked, Returned
from txamqp091.service import SecretUnavailable


class CommandStatus(Status):
    """
    How a command ended.  From 64 to 78 the numbers are those of the daemon, which are
    those of BSD's ``sysexits.h``.
    """

    OK = 0, "done"
    NOTHING = 1, "the queue has no message, or none that matches"
    USAGE = 64, "the command line is wrong"
    DIFFERENT = 65, "diff found something missing or different"
    NOT_FOUND = 66, "a queue or an exchange does not exist, or no queue takes a message"
    NO_VHOST = 68, "the virtual host does not exist, or the user may not use it"
    UNAVAILABLE = 69, "there is no broker"
    SOFTWARE = 70, "an unexpected error"
    NOT_INSTALLED = 72, "a package is missing: pip install 'txamqp091[cli]'"
    REFUSED = 73, "the broker or the command refuses an operation"
    LOST = 74, "the connection was lost"
    INCOMPLETE = 75, "some messages were not processed; they are where they were"
    PROTOCOL = 76, "the peer does not speak AMQP 0-9-1, or TLS failed"
    NO_PERMISSION = 77, "the password is wrong, or the user has no permission"
    CONFIG = 78, "the URI, the password file, the file or a setting is wrong"
    INTERRUPTED = 130, "Ctrl-C ended the command before its work was done"
    BROKEN_PIPE = 141, "the reader of the output ended"


def status_of(error: BaseException, connected: bool) -> CommandStatus:
    """
    The exit status for an error.

    :param connected: whether there was a connection.
    """
    if isinstance(error, Returned):
        return CommandStatus.NOT_FOUND
    if isinstance(error, Nacked):
        return CommandStatus.INCOMPLETE
    if isinstance(error.__cause__, SecretUnavailable):
        return CommandStatus.CONFIG
    number: int = exit_status(error, connected)
    return _BY_NUMBER[number]


_BY_NUMBER = {each.value: each for each in CommandStatus}
