# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
Tests for what the integration tests stand on: private nodes, clusters, and the
choice of brokers.  They speak AMQP by hand, so that a broken client does not look
like a broken node.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.installations import Broker, Installation, known_brokers
from txamqp091.test.support.integration import RabbitTestCase, every_broker, installed
from txamqp091.test.support.processes import HOST, RabbitError, free_ports, wait_for
from txamqp091.test.support.rabbit import RabbitNode, RunningNode, speaks_amqp
from txamqp091.test.support.scripted import FrameSocket
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.properties import Properties
from txamqp091.wire.spec import (
    PROTOCOL_HEADER,
    BasicAck,
    BasicPublish,
    ChannelOpen,
    ConfirmSelect,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionOpen,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUnblocked,
    QueueDeclare,
)
from txamqp091.wire.types import FieldValue

CAPABILITIES = {"connection.blocked": True, "authentication_failure_close": True}


@contextmanager
def logged_in(
    port: int,
    vhost: str = "/",
    response: bytes | None = b"\0guest\0guest",
    tls: ssl.SSLContext | None = None,
) -> Iterator[FrameSocket]:
    """
    A connection with channel 1 open and in confirm mode.

    :param response: what PLAIN sends; `None` to log in by EXTERNAL.
    """
    with socket.create_connection((HOST, port), 60) as raw:
        sock = raw
        if tls is not None:
            sock = tls.wrap_socket(raw, server_hostname="localhost")
        with sock:
            client = FrameSocket(sock)
            client.send(PROTOCOL_HEADER)
            client.read_frame(ConnectionStart)
            client.send_method(
                ConnectionStartOk(
                    {"capabilities": CAPABILITIES},
                    "EXTERNAL" if response is None else "PLAIN",
                    response or b"",
                )
            )
            frame = client.read_frame(ConnectionTune, ConnectionClose)
            if frame.method is ConnectionClose:
                raise PermissionError(ConnectionClose.decode(frame.payload).reply_text)
            client.send_method(ConnectionTuneOk(2047, 131072, 0))
            client.ask(ConnectionOpen(vhost))
            client.ask(ChannelOpen(), 1)
            client.ask(ConfirmSelect(), 1)
            yield client


def publish(client: FrameSocket, queue: str) -> None:
    """
    Publish a persistent message.
    """
    frame = method_frame(1, BasicPublish(routing_key=queue).encode())
    persistent = Properties(delivery_mode=2).encode()
    client.send(b"".join(content_frames(1, frame, persistent, b"hello", 4096)))


class InstallationTests(SynchronousTestCase):
    """
    Which brokers there are to test with.
    """

    def install(self, version: str) -> str:
        """
        Make a folder that looks like a chroot with RabbitMQ in it.
        """
        return self.install_in(Path(self.mktemp()).resolve(), version)

    def install_in(self, root: Path, version: str) -> str:
        """
        Make it in this place.
        """
        sbin = root / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin"
        sbin.mkdir(parents=True)
        (sbin / "rabbitmq-server").touch()
        return str(root)

    def brokers(self, **environment: str) -> list[Broker]:
        """
        The brokers that are known in an environment.
        """
        self.patch(os, "environ", environment)
        return list(known_brokers())

    def test_listed(self) -> None:
        """
        ``TXAMQP091_BROKERS`` says where the brokers are; a version that is listed
        twice is used once.
        """
        roots = [self.install(each) for each in ("3.10.9", "4.3.7", "4.3.7")]
        brokers = self.brokers(TXAMQP091_BROKERS=":".join(roots))
        self.assertEqual([each.name for each in brokers], ["3.10.9", "4.3.7"])
        self.assertEqual(
            [each.installation and str(each.installation.root) for each in brokers],
            roots[:2],
        )

    def test_chroots(self) -> None:
        """
        Those that are not listed are looked for where ``.ci/brokers`` puts them.
        """
        folder = Path(self.mktemp()).resolve()
        root = self.install_in(folder / "rabbitmq-4.3", "4.3.99")
        self.install_in(folder / "other", "4.3.98")
        found = {
            each.name: each.installation and str(each.installation.root)
            for each in self.brokers(TXAMQP091_BROKERS_DIR=str(folder))
        }
        self.assertEqual(found.pop("4.3.99"), root)
        self.assertNotIn("4.3.98", found)

    def test_no_server(self) -> None:
        """
        A URI of no RabbitMQ on this machine is an error, not a skipped test.
        """
        for uri in ("amqp://localhost:1", "amqp://example.com", "http://localhost:80"):
            with self.assertRaisesRegex(ValueError, "^TXAMQP091_BROKERS: "):
                self.brokers(TXAMQP091_BROKERS=uri)

    def test_missing(self) -> None:
        """
        A required broker that is not here is known too, as missing.
        """
        root = self.install("4.10.0")
        self.assertEqual(
            self.brokers(TXAMQP091_BROKERS=f"{root}:/nowhere"),
            [
                Broker("4.10.0", Installation(Path(root), "4.10.0")),
                Broker("3.10", None),
            ],
        )

    def test_skip_or_fail(self) -> None:
        """
        A missing broker skips tests with the way to get it, and fails them in CI or
        where it is required.
        """
        self.patch(os, "environ", {})
        error = self.assertRaises(SkipTest, installed, Broker("4.3", None))
        self.assertIn("no RabbitMQ 4.3", str(error))
        self.assertIn(".ci/brokers", str(error))
        for name in ("CI", "TXAMQP091_REQUIRE_RABBITMQ"):
            self.patch(os, "environ", {name: "true"})
            self.assertRaises(AssertionError, installed, Broker("4.3", None))

    def test_one_class_per_broker(self) -> None:
        """
        A scenario becomes a test case for each broker, and is none itself.
        """
        module = vars(sys.modules[__name__])
        self.assertIs(module["NodeTests"], None)
        for broker in known_brokers():
            case = module["NodeTests_" + broker.name.replace(".", "_")]
            self.assertTrue(issubclass(case, RabbitTestCase))
            self.assertEqual(case.broker, broker)

    def test_free_ports(self) -> None:
        """
        Ports differ, and none is one that the kernel may give to a client.
        """
        ports = free_ports(50)
        self.assertEqual(len(set(ports)), 50)
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        low, high = map(int, text.split())
        self.assertEqual([port for port in ports if low <= port <= high], [])


@every_broker
class RunningTests(RabbitTestCase):
    """
    A RabbitMQ that the tests did not start.
    """

    def running(self) -> RunningNode:
        """
        The shared node, as if it had been running before.
        """
        uri = f"amqp://localhost:{self.node.port}"
        found = {}
        self.patch(os, "environ", {**os.environ, "TXAMQP091_BROKERS": uri})
        for broker in known_brokers():
            found[broker.name] = broker.installation
        installation = found[self.node.version]
        assert installation is not None
        environment = [f"{k}={v}" for k, v in self.node.environment.items()]
        command = self.node.installation.command(
            "/usr/bin/env",
            "--ignore-environment",
            *environment,
            f"{self.node.installation.sbin}/rabbitmqctl",
        )
        return RunningNode(installation, command)

    def test_control(self) -> None:
        """
        Tests use it, and control it by ``rabbitmqctl``.
        """
        node = self.running()
        self.assertEqual((node.port, node.running), (self.node.port, True))
        node.start()
        for _ in range(2):
            node.add_vhost("made-anew")
        with logged_in(node.port, "made-anew") as client:
            client.send_method(QueueDeclare(queue="q", durable=True), 1)
            publish(client, "q")
            self.assertEqual(node.queue_depth("q", "made-anew"), 1)
        self.assertRaises(RabbitError, node.eval, "no_such_module:call().")
        node.stop()
        self.assertTrue(self.node.running)

    def test_limits(self) -> None:
        """
        What takes a node of one's own skips the test.
        """
        node = self.running()
        self.assertRaises(SkipTest, RabbitNode, node.installation)
        self.assertRaises(SkipTest, node.kill)
        with self.assertRaises(SkipTest):
            node.ca_file  # noqa: B018


@every_broker
class NodeTests(RabbitTestCase):
    """
    A node serves, by itself, all that the tests need.
    """

    def tls(self, user: str) -> ssl.SSLContext:
        """
        How a client with a certificate of this user's speaks TLS.
        """
        context = ssl.create_default_context(cafile=self.node.ca_file)
        context.load_cert_chain(*self.client_certificate(user))
        return context

    def test_plain(self) -> None:
        """
        A client logs in to the test case's virtual host with a password.
        """
        with logged_in(self.node.port, self.vhost) as client:
            start = ConnectionStart.decode(client.received[0].payload)
        version = start.server_properties["version"]
        self.assertEqual(version, self.node.version)

    def test_tls(self) -> None:
        """
        A client that trusts the node's authority logs in by TLS, which offers it
        EXTERNAL.
        """
        with logged_in(self.node.tls_port, tls=self.tls("anybody")) as client:
            start = ConnectionStart.decode(client.received[0].payload)
        self.assertIn(b"EXTERNAL", start.mechanisms.split())

    def test_external(self) -> None:
        """
        EXTERNAL takes a certificate's common name for the user's name.
        """
        port = self.node.tls_port
        with logged_in(port, response=None, tls=self.tls("guest")) as client:
            publish(client, "nowhere")
            client.read_frame(BasicAck)
        with self.assertRaises(PermissionError):
            with logged_in(port, response=None, tls=self.tls("stranger")):
                pass

    def test_loopback_only(self) -> None:
        """
        No port of the node can be reached from outside.
        """
        ip4, ip6 = "0100007F", "00000000000000000000000001000000"
        listening = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, port = local.partition(":")
                if state == "0A":
                    listening.add((int(port, 16), address))
        for number in self.node.ports:
            addresses = {address for each, address in listening if each == number}
            self.assertIn(ip4, addresses)
            self.assertLessEqual(addresses, {ip4, ip6})

    def test_memory_alarm(self) -> None:
        """
        The memory alarm blocks who publishes, and lets them go on when it ends.
        """
        with logged_in(self.node.port) as client:
            self.block_publishers()
            publish(client, "nowhere")
            client.read_frame(ConnectionBlocked)
            self.node.set_memory_alarm(False)
            client.read_frame(ConnectionUnblocked)
            client.read_frame(BasicAck)

    def test_close_connections(self) -> None:
        """
        The node can be made to close its connections, with a reason.
        """
        with logged_in(self.node.port) as client:
            self.node.close_connections("because")
            frame = client.read_frame(ConnectionClose)
        close = ConnectionClose.decode(frame.payload)
        self.assertEqual(close.reply_code, 320)
        self.assertIn("because", close.reply_text)

    def test_queue_depth(self) -> None:
        """
        The node says at once how many messages are in a queue.
        """
        queue = self.queue_name()
        with logged_in(self.node.port, self.vhost) as client:
            client.ask(QueueDeclare(queue=queue, durable=True), 1)
            for _ in range(3):
                publish(client, queue)
                client.read_frame(BasicAck)
            self.assertEqual(self.node.queue_depth(queue, self.vhost), 3)

    def test_eval(self) -> None:
        """
        An expression is evaluated by the node, and one that fails is an error.
        """
        self.assertEqual(self.node.eval("1 + 1."), "2")
        self.assertRaises(RabbitError, self.node.eval, "no_such:function().")

    def test_pause(self) -> None:
        """
        A frozen node answers nobody, until it goes on.
        """
        self.node.pause()
        self.addCleanup(self.node.resume)
        self.assertFalse(speaks_amqp(self.node.port, 0.2))
        self.node.resume()
        self.assertTrue(wait_for(lambda: speaks_amqp(self.node.port), 60))


@every_broker
class ConnectTests(RabbitTestCase):
    """
    Test cases have connections.
    """

    async def test_connect(self) -> None:
        """
        A test case connects in the clear and by TLS, and with changed parameters;
        its connections are closed when it ends.
        """
        opened: list[AMQPProtocol] = []
        self.addCleanup(
            lambda: self.assertEqual([each.is_open for each in opened], [False] * 2)
        )
        opened.append(await self.connect(name="a test"))
        opened.append(await self.connect(self.tls_uri))
        for connection in opened:
            version = connection.server_properties["version"]
            self.assertEqual(version, self.node.version)


@every_broker
class LifeTests(RabbitTestCase):
    """
    Nodes live as long as the tests say, and no longer.
    """

    async def test_kill_and_restart(self) -> None:
        """
        A node that was killed and started again has its port and its durable
        queues; one that was stopped leaves nothing.
        """
        node = await self.private_node()
        with logged_in(node.port) as client:
            client.ask(QueueDeclare(queue="kept", durable=True), 1)
            publish(client, "kept")
            client.read_frame(BasicAck)
        node.sync()
        node.kill()
        self.assertFalse(speaks_amqp(node.port))
        node.start()
        self.assertEqual(node.queue_depth("kept"), 1)
        node.stop()
        self.assertFalse(speaks_amqp(node.port))
        self.assertFalse(node.directory.exists())

    def test_bad_configuration(self) -> None:
        """
        Why a node does not start is in the error.
        """
        node = RabbitNode(installed(self.broker), configuration={"nonsense": 1})
        self.addCleanup(node.stop)
        error = self.assertRaises(RabbitError, node.start)
        self.assertIn("nonsense", str(error))

    def test_no_orphans(self) -> None:
        """
        Tests that are killed take their nodes with them, and their files.
        """
        program = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from txamqp091.test.support.installations import Installation\n"
            "from txamqp091.test.support.rabbit import RabbitNode\n"
            "node = RabbitNode(Installation.at(Path(sys.argv[1])))\n"
            "node.launch()\n"
            "print(node.pid, node.directory, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, installed(self.broker).root],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
        pid, directory = done.stdout.split()
        remains = [Path("/proc", pid), Path(directory)]
        self.assertTrue(wait_for(lambda: not any(map(Path.exists, remains)), 60))


@every_broker
class ClusterTests(RabbitTestCase):
    """
    Nodes form a cluster.
    """

    timeout = 480.0

    async def test_leader_killed(self) -> None:
        """
        When the node that leads a quorum queue dies, another one leads it.
        """
        cluster = await self.private_cluster(3)
        arguments: dict[str, FieldValue] = {
            "x-queue-type": "quorum",
            "x-quorum-initial-group-size": 3,
        }
        with logged_in(cluster[0].port) as client:
            client.ask(QueueDeclare(queue="q", durable=True, arguments=arguments), 1)
        first = cluster.leader_of("q")
        first.kill()
        second = cluster.leader_of("q")
        self.assertIsNot(first, second)
        cluster.await_members(2)
