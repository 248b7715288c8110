# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
Private RabbitMQ nodes for tests.

Everything that a node owns lives in one throw-away directory, it listens on the
loopback interface only, and its whole environment is ours: so nodes run beside a
system's broker and beside each other, as any user, without systemd,
``/etc/rabbitmq`` or ``/var/lib/rabbitmq``::

    with RabbitNode(tls=True) as node:
        connect(node.port)

The server is the system's, or one in a chroot (``.ci/brokers`` makes them).
Several nodes as one cluster are in `txamqp091.test.support.cluster`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from twisted.trial.unittest import SkipTest

from txamqp091.test.support.certificates import Authority
from txamqp091.test.support.installations import Installation
from txamqp091.test.support.processes import (
    HOST,
    PATH,
    Epmd,
    Process,
    RabbitError,
    free_ports,
    wait_for,
)
from txamqp091.wire.spec import PROTOCOL_HEADER, ConnectionStart

__all__ = ["RabbitNode", "RunningNode", "speaks_amqp"]

_calls = itertools.count(1)


def speaks_amqp(port: int, timeout: float = 5.0) -> bool:
    """
    Whether somebody answers the protocol header with ``connection.start``.

    An open port alone proves too little: a booting, or stopped, node accepts
    connections that it does not serve.
    """
    reply = b""
    try:
        with socket.create_connection((HOST, port), timeout) as sock:
            sock.sendall(PROTOCOL_HEADER)
            while len(reply) < 11 and (data := sock.recv(11 - len(reply))):
                reply += data
    except OSError:
        return False
    return reply[:3] == b"\1\0\0" and reply[7:] == ConnectionStart.prefix


class RabbitNode:
    """
    One RabbitMQ node.

    :ivar port: the AMQP port.
    :ivar tls_port: the AMQPS port, or 0.
    :ivar authority: who signed the certificate that the node shows to TLS clients,
        and whose clients it accepts.  EXTERNAL takes a client certificate's common
        name for the user.
    :ivar ca_file: its certificate.
    :ivar directory: everything that the node reads and writes.
    :ivar start_seconds: how long the last start took.
    """

    host = HOST

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        name: str = "rabbit",
        tls: bool = False,
        require_client_certificate: bool = False,
        plugins: Iterable[str] = (),
        configuration: Mapping[str, object] | None = None,
        epmd: Epmd | None = None,
    ) -> None:
        """
        :param installation: which RabbitMQ to run; the system's by default.
        :param name: the part of the node's name before ``@localhost``.
        :param tls: serve AMQPS too, and offer EXTERNAL.
        :param plugins: the plugins to enable.
        :param configuration: more keys of ``rabbitmq.conf``.
        :param epmd: the port mapper that the nodes of a cluster share.
        """
        installation = installation or Installation.at(Path("/"))
        if installation is None:
            raise RabbitError("this system has no RabbitMQ")
        if installation.port:
            raise SkipTest("this test needs a RabbitMQ that it can start itself")
        self.installation = installation
        self.version = installation.version
        self.name = f"{name}@localhost"
        self.directory = installation.make_directory(name)
        self.port, self.tls_port, self._dist_port = free_ports(3)
        self.authority = Authority()
        self.ca_file = Path(self.authority.write(self.directory))
        self.start_seconds = 0.0
        self.paused = False
        self._owns_epmd = epmd is None
        self._epmd = epmd or Epmd()
        self._process: Process | None = None
        self._launched = 0.0
        self._plugins = list(plugins)
        self._configuration: dict[str, object] = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "loopback_users.guest": "true",
            # A full disk, or a small one, is not what the tests are about.
            "disk_free_limit.absolute": "20MB",
            "log.file.level": "info",
        }
        if tls:
            self._configure_tls(require_client_certificate)
        else:
            self.tls_port = 0
        self._configuration.update(configuration or {})

    def __repr__(self) -> str:
        return f"<RabbitNode {self.name} {self.version} port={self.port}>"

    def _configure_tls(self, require_client_certificate: bool) -> None:
        server = self.authority.issue("localhost", HOST, common_name="localhost")
        certificate, key = server.write(self.directory, "server")
        inside = self.installation.inside
        self._plugins.append("rabbitmq_auth_mechanism_ssl")
        self._configuration |= {
            "listeners.ssl.1": f"{HOST}:{self.tls_port}",
            "ssl_options.cacertfile": inside(self.ca_file),
            "ssl_options.certfile": inside(Path(certificate)),
            "ssl_options.keyfile": inside(Path(key)),
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": str(require_client_certificate).lower(),
            "ssl_cert_login_from": "common_name",
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "AMQPLAIN",
            "auth_mechanisms.3": "EXTERNAL",
        }

    @property
    def environment(self) -> dict[str, str]:
        """
        The whole environment of the server: nothing is inherited, so nothing on the
        machine can change the node.
        """
        own = self.installation.inside(self.directory)
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": own,  # where Erlang looks for its cookie
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_INETRC": f"{own}/inetrc",  # "localhost", also without /etc/hosts
            "ERL_CRASH_DUMP": f"{own}/erl_crash.dump",
            "ERL_CRASH_DUMP_SECONDS": "0",  # do not write one
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            # Otherwise /etc/rabbitmq is read...
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{own}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{own}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{own}/enabled_plugins",
            # ... and /var is written.
            "RABBITMQ_MNESIA_BASE": f"{own}/data",
            "RABBITMQ_LOG_BASE": f"{own}/log",
            "RABBITMQ_LOGS": f"{own}/log/node.log",
            "RABBITMQ_PID_FILE": f"{own}/node.pid",
            # The script becomes the Erlang VM, so that signals get there.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _write_files(self) -> None:
        files = {
            "inetrc": '{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n',
            "enabled_plugins": f"[{','.join(self._plugins)}].\n",
            "advanced.config": "[].\n",
            "rabbitmq.conf": "".join(
                f"{key} = {value}\n" for key, value in self._configuration.items()
            ),
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)  # Erlang refuses a cookie that others can read
            cookie.write_text("TXAMQP091TESTCOOKIE")

    # -- life and death ------------------------------------------------------------

    def launch(self) -> None:
        """
        Start the node, without waiting for it.
        """
        if self.running:
            raise RabbitError(f"{self.name} runs already")
        self._write_files()
        if self._owns_epmd and not self._epmd.running:
            self._epmd.start()
        self._launched = time.monotonic()
        self._process = Process(
            self.installation.command(f"{self.installation.sbin}/rabbitmq-server"),
            environment=self.environment,
            output=self.directory / "stdout.log",
            directory=self.directory,
            temporary=self.directory,
        )

    def await_ready(self, timeout: float = 180.0) -> None:
        """
        Wait until the node serves clients.
        """

        def ready() -> bool:
            if not self.running:
                raise RabbitError(f"{self.name} ended while it started\n{self.log()}")
            # Listeners open before the last plugin has started.
            if not speaks_amqp(self.port):
                return False
            with contextlib.suppress(RabbitError):
                return self.eval("rabbit:is_running().") == "true"
            return False

        if not wait_for(ready, self._launched + timeout - time.monotonic()):
            raise RabbitError(f"{self.name} not ready in {timeout} s\n{self.log()}")
        self.start_seconds = time.monotonic() - self._launched

    def start(self, timeout: float = 180.0) -> None:
        """
        Start the node, and wait until it serves clients.
        """
        self.launch()
        try:
            self.await_ready(timeout)
        except BaseException:
            self.kill()
            raise

    def terminate(self, timeout: float = 30.0) -> None:
        """
        Shut the node down in order (SIGTERM).  It can be started again.
        """
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """
        End the node as a power failure would (SIGKILL).  It can be started again.
        """
        self._end(signal.SIGKILL)

    def _end(self, number: int, timeout: float = 30.0) -> None:
        self.resume()  # or it would not notice the signal
        process, self._process = self._process, None
        if process is not None:
            process.end(number, timeout)

    def pause(self) -> None:
        """
        Freeze the node (SIGSTOP): its sockets stay open, and nobody answers.
        """
        if self._process is not None:
            self._process.send(signal.SIGSTOP)
            self.paused = True

    def resume(self) -> None:
        """
        Let a frozen node go on.
        """
        if self._process is not None and self.paused:
            self._process.send(signal.SIGCONT)
        self.paused = False

    def stop(self) -> None:
        """
        End the node for good, and remove what it left.  It is killed: to shut down
        in order takes up to six seconds, to save what nobody will read.
        """
        self.kill()
        if self._owns_epmd:
            self._epmd.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> RabbitNode:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    # -- observation and control ---------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """
        The process id of the Erlang VM, or 0.
        """
        return 0 if self._process is None else self._process.pid

    @property
    def ports(self) -> list[int]:
        """
        All ports on which the node, or its port mapper, listens.
        """
        ports = [self.port, self.tls_port, self._dist_port, self._epmd.port]
        return [port for port in ports if port]

    def log(self, lines: int = 100) -> str:
        """
        The end of what the node said.
        """
        text = ""
        for name in ("stdout.log", "log/node.log"):
            with contextlib.suppress(OSError):
                text += (self.directory / name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def eval(self, expression: str, timeout: float = 60.0) -> str:
        """
        Evaluate an Erlang expression in the node: in milliseconds, where
        ``rabbitmqctl`` takes half a second.
        """
        # The system's erl_call serves every version.  The one in a chroot without
        # /etc/hosts crashes: it reads no inetrc.  Each call has a name of its own: a
        # node refuses the name of a caller whose end it has not noticed yet.
        name = f"caller{os.getpid()}x{next(_calls)}"
        try:
            done = subprocess.run(
                ["erl_call", "-h", name, "-address", f"{HOST}:{self._dist_port}", "-e"],
                env=self.environment | {"HOME": str(self.directory)},
                input=expression.encode() + b"\n",
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RabbitError(f"{expression}: no answer in {timeout} s") from error
        answer = done.stdout.decode(errors="replace").strip()
        match = re.fullmatch(r"\{ok, (.*)\}", answer, re.DOTALL)
        if match is None:
            answer += done.stderr.decode(errors="replace")
            raise RabbitError(f"{expression}: {answer or 'no answer'}")
        return match[1]

    def add_vhost(self, vhost: str, user: str = "guest") -> None:
        """
        Make a virtual host in which a user may do everything.
        """
        everything = ", ".join(['<<".*">>'] * 3)
        self.eval(
            f'rabbit_vhost:add(<<"{vhost}">>, <<"test">>),'
            " rabbit_auth_backend_internal:set_permissions("
            f'<<"{user}">>, <<"{vhost}">>, {everything}, <<"test">>).'
        )

    def set_memory_alarm(self, on: bool) -> None:
        """
        Make the node block its publishers, or let them go on.  All its connections
        know by the time that this returns: one that learned of it after a publish
        would not block before the next one.
        """
        limit = "{absolute, 1}" if on else "0.6"
        self.eval(
            f"vm_memory_monitor:set_vm_memory_high_watermark({limit}),"
            " rabbit_alarm:get_alarms(),"
            " rabbit_networking:connection_info_all([state]), ok."
        )

    def sync(self) -> None:
        """
        Have on disk what was declared.  With Mnesia, RabbitMQ says that it has a queue
        up to two seconds before that outlives a SIGKILL.
        """
        if self.installation.number < (4,):
            self.eval("mnesia:sync_log().")

    def close_connections(self, reason: str = "test", user: str = "") -> None:
        """
        Have the node close every client's connection, or those of one user (320
        CONNECTION_FORCED).
        """
        theirs = (
            ", (catch rabbit_networking:connection_info(P, [user]))"
            f' =:= [{{user, <<"{user}">>}}]'
        )
        self.eval(
            # Some may end by themselves before they are asked.
            f'[catch rabbit_networking:close_connection(P, "{reason}")'
            " || P <- rabbit_networking:connections()"
            f"{theirs if user else ''}], ok."
        )

    def queue_depth(self, queue: str, vhost: str = "/") -> int:
        """
        How many messages a queue has ready, now.  What ``rabbitmqctl`` lists is up
        to five seconds old.
        """
        return int(
            self._ask_queue(
                queue, vhost, "{ok, Ready, _} = rabbit_amqqueue:stat(Q), Ready."
            )
        )

    def unacknowledged(self, queue: str, vhost: str = "/") -> int:
        """
        How many messages of a queue were delivered and not answered for yet.
        """
        return int(
            self._ask_queue(
                queue,
                vhost,
                "proplists:get_value(messages_unacknowledged,"
                " rabbit_amqqueue:info(Q, [messages_unacknowledged])).",
            )
        )

    def _ask_queue(self, queue: str, vhost: str, question: str) -> str:
        return self.eval(
            "{ok, Q} = rabbit_amqqueue:lookup("
            f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), {question}'
        )

    def queue_leader(self, queue: str, vhost: str = "/") -> str:
        """
        The name of the node that, as far as this one knows, leads a quorum queue.
        """
        name = f"{vhost.replace('/', '%2F')}_{queue}"
        leader = self.eval(f"{{_, N}} = ra_leaderboard:lookup_leader('{name}'), N.")
        return leader.strip("'")


class RunningNode(RabbitNode):
    """
    A RabbitMQ that was running before the tests: see
    `txamqp091.test.support.installations`.  A test that starts, ends or freezes the
    node, or needs one of its files, is skipped.
    """

    tls_port = 0
    running = True

    def __init__(
        self, installation: Installation, command: Sequence[str] | None = None
    ) -> None:
        """
        :param command: runs the node's ``rabbitmqctl``.
        """
        self.installation = installation
        self.version = installation.version
        self.port = installation.port
        if command is None:
            command = os.environ.get(
                "TXAMQP091_RABBITMQCTL", "docker exec txamqp091-{port} rabbitmqctl"
            ).split()
        self._command = [each.replace("{port}", str(self.port)) for each in command]

    def __getattr__(self, name: str) -> NoReturn:
        raise SkipTest(f"a RabbitMQ that the tests did not start has no {name}")

    def __repr__(self) -> str:
        return f"<RunningNode {self.version} port={self.port}>"

    def launch(self) -> None:
        """
        It runs.
        """

    def await_ready(self, timeout: float = 180.0) -> None:
        """
        It is.
        """

    def stop(self) -> None:
        """
        It is not ours to stop.
        """

    def eval(self, expression: str, timeout: float = 60.0) -> str:
        """
        Evaluate an Erlang expression in the node: in half a second or more.
        """
        done = subprocess.run(
            [*self._command, "--silent", "eval", expression],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RabbitError(f"{expression}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def add_vhost(self, vhost: str, user: str = "guest") -> None:
        """
        Make a virtual host anew: an earlier run of the tests may have left it.
        """
        with contextlib.suppress(RabbitError):
            self.eval(f'rabbit_vhost:delete(<<"{vhost}">>, <<"test">>).')
        super().add_vhost(vhost, user)
