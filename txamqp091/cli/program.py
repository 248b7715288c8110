# -*- test-case-name: txamqp091.test.unit.cli.test_program -*-
"""
The commands and their options, as click reads them, and how a command runs.

A command is a coroutine function of a `Session` and of its own options; the decorator
`command` adds the options that all commands have.
"""

from __future__ import annotations

__all__ = ["Invocation", "command", "commands", "parse"]

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred

from txamqp091._version import __version__
from txamqp091.cli.exit_status import CommandStatus, status_of
from txamqp091.cli.session import Job, LoginOptions, Refused, connect
from txamqp091.cli.streams import Streams
from txamqp091.daemon.handler_loading import HandlerNotFound
from txamqp091.daemon.settings_schema import Problem
from txamqp091.errors import AMQPError

_STATUSES = "\n".join(f"  {each:3}  {each.meaning}" for each in CommandStatus)

_HELP = f"""
Work with a RabbitMQ broker: messages, topology, delayed and dead messages.

\b
Environment variables, as for the daemon:
  TXAMQP091_URI, TXAMQP091_URI_FILE       the broker
  TXAMQP091_PASSWORD, ..._PASSWORD_FILE   the password
  TXAMQP091_TOKEN_FILE                    the file with an OAuth 2 token
  TXAMQP091_CONFIG                        the file of settings

\b
Exit status:
{_STATUSES}
"""


@click.group(
    "txamqp091",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 90},
)
@click.version_option(__version__, prog_name="txamqp091")
def commands() -> None:
    """
    All commands.
    """


_LOGIN = (
    click.option(
        "--uri", metavar="URI", help="Broker, amqp:// or amqps://.  TLS files and "
        "other parameters are in its query.  Default: TXAMQP091_URI, or amqp://localhost.",
    ),
    click.option(
        "--password-file", metavar="FILE", help="File with the password; or set "
        "TXAMQP091_PASSWORD.",
    ),
    click.option("--token-file", metavar="FILE", help="File with an OAuth 2 token."),
    click.option("--srv", metavar="DOMAIN", help="Find the nodes by SRV records."),
    click.option(
        "--endpoint", metavar="ENDPOINT", help="Connect through an endpoint, such as "
        "unix:/run/rabbitmq.sock.",
    ),
    click.option("--json", is_flag=True, help="Write JSON: one object a line."),
)  # fmt: skip

_CONFIG = click.option(
    "--config", "-c", metavar="FILE", help="File of settings of the daemon: the broker "
    "and the login.  Default: TXAMQP091_CONFIG.",
)  # fmt: skip
_FILE = click.argument("config", metavar="[FILE]", required=False)

Command = Callable[..., Awaitable[int]]


def command(
    group: click.Group, name: str, *, takes_file: bool = False
) -> Callable[[Command], Command]:
    """
    Make a coroutine function a command; its docstring is the help.

    :param takes_file: whether the file of settings is an argument.
    """

    def decorate(function: Command) -> Command:
        def call(**parameters: Any) -> Invocation:
            login = {
                name: parameters.pop(name) for name in LoginOptions.__dataclass_fields__
            }
            json = parameters.pop("json")
            return Invocation(
                LoginOptions(**login), json, partial(function, **parameters)
            )

        call.__doc__ = function.__doc__
        # Options that decorators below this one have put onto the function.
        params = getattr(function, "__click_params__", [])
        call.__click_params__ = list(params)  # type: ignore[attr-defined]
        for option in reversed((_FILE if takes_file else _CONFIG, *_LOGIN)):
            option(call)
        group.command(name)(call)
        return function

    return decorate


@dataclass(frozen=True, kw_only=False, repr=False)
class Invocation:
    """
    A command with its options, ready to run.
    """

    login: LoginOptions
    json: bool
    job: Job

    def run(
        self, reactor: Any, environ: Mapping[str, str], streams: Streams
    ) -> Deferred[int]:
        """
        Connect, and do the work.

        :returns: fires with the exit status; it does not fail.  Cancelling it ends the
            command in order.
        """
        streams.json = self.json
        return Deferred.fromCoroutine(self._run(reactor, environ, streams))

    async def _run(
        self, reactor: Any, environ: Mapping[str, str], streams: Streams
    ) -> int:
        session = None
        status: int
        try:
            session = await connect(reactor, self.login, environ, streams)
            status = await self.job(session)
        except CancelledError:
            status = CommandStatus.INTERRUPTED
        except BrokenPipeError:
            status = CommandStatus.BROKEN_PIPE
        except (Problem, HandlerNotFound) as problem:
            streams.say(str(problem))
            status = CommandStatus.CONFIG
        except Refused as refused:
            streams.say(str(refused))
            status = refused.status
        except AMQPError as error:
            streams.say(str(error))
            status = status_of(error, session is not None)
        except Exception as error:
            streams.say(f"{type(error).__name__}: {error}")
            status = CommandStatus.SOFTWARE
        streams.clear_progress()
        if session is not None:
            try:
                await session.connection.close()
            except (AMQPError, CancelledError):
                pass  # the work is done, or its error is known
        return status


def parse(arguments: Sequence[str], streams: Streams) -> Invocation | int:
    """
    Read a command line.

    :returns: the command to run, or the exit status after help or an error was shown.
    """
    # The modules below add their commands.
    from txamqp091.cli import dead_letters, delays, messages, topology

    del dead_letters, delays, messages, topology
    try:
        result = commands.main(
            list(arguments), prog_name="txamqp091", standalone_mode=False
        )
    except click.UsageError as error:
        streams.say(error.format_message())
        return CommandStatus.USAGE
    except click.Abort:
        return CommandStatus.INTERRUPTED
    if isinstance(result, Invocation):
        return result
    return CommandStatus.OK
