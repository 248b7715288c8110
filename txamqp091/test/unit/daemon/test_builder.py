# -*- test-case-name: txamqp091.test.unit.daemon.test_builder -*-
"""
From settings to a daemon, with a broker in memory.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent

from txamqp091.daemon import builder as assembly
from txamqp091.daemon.builder import (
    broker_places,
    check_parts,
    load_handlers,
    make_daemon,
)
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.handler_loading import HandlerNotFound
from txamqp091.daemon.logs import set_threshold
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import LogThreshold, Settings
from txamqp091.daemon.settings_loading import load
from txamqp091.daemon.settings_schema import Problem
from txamqp091.errors import NotInstalled
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service import AMQPClientService
from txamqp091.test.support.peer import Peer
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.test.unit.daemon.test_admin import get
from txamqp091.wire.properties import Properties
from txamqp091.worker.handler_publisher import HandlerPublisher, ThreadPublisher
from txamqp091.worker.startup import started

HERE = __name__


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


async def coroutine(delivery: Delivery) -> None:
    """
    Another one.
    """


SEEN: list[Any] = []


def decode(body: bytes, properties: Properties) -> int:
    """
    A decoder.
    """
    return int(body)


def pairs(batch: list[tuple[int, Delivery]]) -> None:
    """
    A handler of batches.
    """
    SEEN.append([(number, delivery.delivery_tag) for number, delivery in batch])


def counting(handler: Any) -> Any:
    """
    A middleware.
    """

    def handle(delivery: Delivery) -> Any:
        SEEN.append("counted")
        return handler(delivery)

    return handle


def open_pool() -> Deferred[str]:
    """
    A startup function.
    """
    SEEN.append(Deferred())
    opening: Deferred[str] = SEEN[-1]
    return opening


def close_pool(pool: str) -> None:
    """
    A shutdown function.
    """
    SEEN.append(f"closed {pool}")


class Reactor(MemoryReactorClock):
    """
    A reactor in memory, whose threads are this one.
    """

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """
        Twisted: call a function in the reactor's thread.
        """
        self.callLater(0, function, *args)


class AssemblyCase(ServiceCase):
    """
    Settings from a file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp())
        self.addCleanup(set_threshold, LogThreshold.INFO)

    def settings(self, text: str) -> Settings:
        """
        Write a file, and read it.
        """
        self.path.write_text(text)
        return self.load()

    def load(self) -> Settings:
        """
        Read the file.
        """
        return load(str(self.path), {}, {})

    def consumer(self, more: str = "", handler: str = "take", top: str = "") -> str:
        """
        A file with one consumer.
        """
        return (
            f'{top}\n[[consumers]]\nqueue = "work"\nhandler = "{HERE}:{handler}"\n'
            f"dead_letters = true\n{more}\n"
        )


class CheckTests(AssemblyCase):
    """
    Whether all is here that is asked for.
    """

    def test_handlers(self) -> None:
        """
        Handlers are found by their names; what is wrong with one is told with its
        place.
        """
        handlers = load_handlers(self.settings(self.consumer()))
        self.assertEqual(handlers, {"work": take})
        error = self.assertRaises(
            HandlerNotFound, load_handlers, self.settings(self.consumer("", "no"))
        )
        self.assertIn("consumers[0].handler: ", str(error))
        problem = self.assertRaises(
            Problem,
            load_handlers,
            self.settings(self.consumer("in_thread = true", "coroutine")),
        )
        self.assertIn("is a coroutine function", str(problem))

    def test_admin(self) -> None:
        """
        The endpoint has to be one.
        """
        reactor = MemoryReactorClock()
        check_parts(self.settings(self.consumer(top='admin = "tcp:0"')), reactor)
        for text in ("tcp:", "tcp", "nowhere:1", "tcp:port=x"):
            settings = self.settings(self.consumer(top=f'admin = "{text}"'))
            problem = self.assertRaises(Problem, check_parts, settings, reactor)
            self.assertEqual(problem.path, "admin")

    def test_offset_files(self) -> None:
        """
        Each consumer of a stream has a file of its own.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        consumers = "".join(
            self.consumer(
                f'name = "{name}"\nstream_offset = "first"\non_error = "halt"\n'
                f'offset_file = "{path}"'
            )
            for name, path in (("a", folder / "x"), ("b", folder / ".." / folder / "x"))
        )
        settings = self.settings(consumers)
        problem = self.assertRaises(Problem, check_parts, settings, None)
        self.assertEqual(
            str(problem),
            "consumers[1].offset_file: is the file of the consumer 'a' too",
        )
        check_parts(self.settings(consumers.replace('/x"', '/y"', 1)), None)

    def test_extras(self) -> None:
        """
        What an extra brings has to be installed.
        """

        def absent(*_: object) -> None:
            raise NotInstalled("install it")

        self.patch(assembly, "Metrics", absent)
        self.patch(assembly, "check_installed", absent)
        for name, top in (
            ("metrics", 'metrics = true\nadmin = "tcp:0"'),
            ("tracing", "tracing = true"),
        ):
            settings = self.settings(self.consumer(top=top))
            problem = self.assertRaises(
                Problem, check_parts, settings, MemoryReactorClock()
            )
            self.assertEqual(str(problem), f"{name}: install it")


class PlaceTests(AssemblyCase):
    """
    What a daemon connects to.
    """

    def places(self, top: str, uri: str = "amqp://localhost") -> list[Any]:
        """
        The places of a file.
        """
        parameters = [ConnectionParameters.from_uri(uri)]
        settings = self.settings(self.consumer(top=top))
        return [*broker_places(MemoryReactorClock(), settings, parameters)]

    def test_srv(self) -> None:
        """
        With ``srv``, the DNS names the nodes, for TLS as the URI says.
        """
        [place] = self.places('srv = "example.org"')
        self.assertEqual(str(place), "SRV _amqp._tcp.example.org")
        [place] = self.places('srv = "example.org"', "amqps://localhost")
        self.assertEqual(str(place), "SRV _amqps._tcp.example.org")

    def test_endpoint(self) -> None:
        """
        With ``endpoint``, the endpoint connects.
        """
        reactor = MemoryReactorClock()
        settings = self.settings(self.consumer(top='endpoint = "unix:/run/rabbit"'))
        where = broker_places(reactor, settings, [ConnectionParameters()])
        client = AMQPClientService(reactor, where)
        client.startService()
        reactor.advance(0)
        self.assertEqual(reactor.unixClients[0][0], "/run/rabbit")
        stopping = client.stopService()
        reactor.advance(60)
        self.successResultOf(stopping)

    def test_endpoint_refused(self) -> None:
        """
        The endpoint is well-formed, does TLS alone, and is not set beside ``srv``.
        """
        for uri, top, text in (
            ("amqp://h", 'endpoint = "nowhere:1"', "is not an endpoint to connect to"),
            ("amqp://h", 'endpoint = "tcp:h"', "is not an endpoint to connect to"),
            ("amqps://h", 'endpoint = "tcp:h:5672"', "does TLS itself"),
            ("amqp://h", 'endpoint = "tcp:h:5672"\nsrv = "x"', "srv is set too"),
        ):
            problem = self.assertRaises(Problem, self.places, top, uri)
            self.assertTrue(problem.path.endswith("endpoint"), problem)
            self.assertIn(text, str(problem))


class DaemonTests(AssemblyCase):
    """
    The daemon that comes of it.
    """

    def make(self, text: str, handler: Any = take) -> Daemon:
        """
        A daemon that runs.
        """
        # Its exit status is not to become that of the tests.
        self.patch(atexit, "register", lambda function: function)
        self.process = Reactor()
        settings = self.settings(text)
        handlers = dict.fromkeys((each.label for each in settings.consumers), handler)
        daemon = make_daemon(
            self.process, settings, [ConnectionParameters()], handlers, self.load, {}
        )
        return daemon

    def test_parts(self) -> None:
        """
        There are a connection, the consumers, and the site.
        """
        daemon = self.make(
            self.consumer(
                'name = "shop"\nprefetch = 7',
                top='admin = "tcp:9419"\nmetrics = true\ntracing = true',
            )
        )
        [consumer] = daemon.consumers
        self.assertEqual((consumer.label, consumer.queue), ("shop", "work"))
        daemon.startService()
        [(port, factory, *_)] = self.process.tcpServers
        site: Any = factory
        self.assertEqual(port, 9419)
        status, _, body = get(site, "/ready")
        self.assertEqual(status, 503)
        self.assertIn("not connected", body)
        self.assertIn("txamqp091_connected 0.0", get(site, "/metrics")[2])
        self.assertIn("txamqp091_deliveries_total", get(site, "/metrics")[2])
        self.successResultOf(daemon.stopService())

    def test_handler_options(self) -> None:
        """
        A decoder, a batch and middleware are put around the handler, duplicates are
        acknowledged, and the rate is limited.
        """
        SEEN.clear()
        daemon = self.make(
            self.consumer(
                f'decode = "{HERE}:decode"\nbatch = 2\nbatch_wait = 0\n'
                f'middleware = ["{HERE}:counting"]\nrate = "1/s"\ndeduplicate = 10\n',
            ),
            pairs,
        )
        [consumer] = daemon.consumers
        runner = consumer.runner
        channel: Any = Peer(self)
        channel.handshake()
        opened = channel.open_channel()
        deliveries: list[Delivery] = []
        opened.basic_consume("work", deliveries.append, consumer_tag="c")
        channel.serve()
        for tag, name in enumerate(("a", "a", "b"), 1):
            channel.deliver(1, "c", tag, b"7", Properties(message_id=name))
        for each in deliveries:
            runner.take(each)
        self.process.advance(0)
        self.assertEqual(SEEN, ["counted", [(7, 1)]])
        for _ in range(3):
            self.process.advance(0.5)
        self.assertEqual(SEEN, ["counted", [(7, 1)], "counted", [(7, 3)]])
        self.assertEqual(runner.counts.acknowledged, 3)

    def test_functions(self) -> None:
        """
        Functions that do not exist are told with their place.
        """
        for more, top, place in (
            (f'decode = "{HERE}:no"', "", "consumers[0].decode: "),
            (f'middleware = ["{HERE}:no"]', "", "consumers[0].middleware[0]: "),
            ("", f'startup = "{HERE}:no"', "startup: "),
            ("", f'shutdown = "{HERE}:HERE"', "shutdown: "),
        ):
            settings = self.settings(self.consumer(more, top=top))
            error = self.assertRaises(HandlerNotFound, check_parts, settings, None)
            self.assertTrue(str(error).startswith(place), error)
        settings = self.settings(self.consumer(top='startup = "open it"'))
        problem = self.assertRaises(Problem, check_parts, settings, None)
        self.assertEqual(problem.path, "startup")
        settings = self.settings(self.consumer('decode = "json"'))
        error = self.assertRaises(HandlerNotFound, load_handlers, settings)
        self.assertIn("with a decoded body and a delivery", str(error))

    def test_life(self) -> None:
        """
        Nothing is consumed before startup has finished; shutdown comes last, with what
        startup has returned.
        """
        SEEN.clear()
        daemon = self.make(
            self.consumer(
                top=f'startup = "{HERE}:open_pool"\nshutdown = "{HERE}:close_pool"'
            )
        )
        daemon.startService()
        self.patch(signal, "signal", lambda number, handler: None)
        self.process.run()
        [opening] = SEEN
        self.assertIn("startup has not finished", daemon.health().problems)
        self.assertFalse(daemon.consumers[0].running)
        opening.callback("the pool")
        self.assertEqual(started(open_pool), "the pool")
        self.assertTrue(daemon.consumers[0].running)
        self.assertNotIn("startup has not finished", daemon.health().problems)
        self.successResultOf(daemon.stopService())
        self.assertEqual(SEEN[1:], ["closed the pool"])
        self.assertEqual(daemon.status, 0)

    def test_startup_fails(self) -> None:
        """
        A startup that fails ends the process with a status of its own.
        """
        SEEN.clear()
        daemon = self.make(self.consumer(top=f'startup = "{HERE}:open_pool"'))
        daemon.startService()
        self.patch(signal, "signal", lambda number, handler: None)
        self.process.run()
        SEEN[0].errback(KeyError("no database"))
        self.assertEqual(daemon.status, ExitStatus.STARTUP)
        self.assertFalse(daemon.consumers[0].running)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.successResultOf(daemon.stopService())

    def test_stopped_during_startup(self) -> None:
        """
        A daemon can be stopped while it starts.
        """
        SEEN.clear()
        daemon = self.make(self.consumer(top=f'startup = "{HERE}:open_pool"'))
        daemon.startService()
        self.patch(signal, "signal", lambda number, handler: None)
        self.process.run()
        self.successResultOf(daemon.stopService())
        self.assertTrue(SEEN[0].called)
        self.assertEqual(daemon.status, 0)

    def test_publisher(self) -> None:
        """
        A handler that asks for a publisher is given one; in a thread, one that waits.
        All of them share it, and it is measured.
        """
        given: list[Any] = []
        twice = threading.Event()

        def publish(delivery: Any, publisher: Any) -> None:
            given.append(publisher)
            if len(given) == 2:
                twice.set()

        delivery: Any = object()
        for more in ("", "in_thread = true"):
            daemon = self.make(
                self.consumer(more, top='admin = "tcp:9419"\nmetrics = true'), publish
            )
            [consumer] = daemon.consumers
            consumer.runner._handler(delivery)
            daemon.startService()
            [(_, factory, *_)] = self.process.tcpServers
            site: Any = factory
            for name in ("handlers", "retries"):
                labels = f'{{publisher="{name}"}}'
                self.assertIn(
                    f"txamqp091_confirms_total{labels} 0.0", get(site, "/metrics")[2]
                )
            stopping = daemon.stopService()
            for _ in range(3):
                self.process.advance(0)
            self.successResultOf(stopping)
        self.assertIsInstance(given[0], HandlerPublisher)
        self.assertTrue(twice.wait(60))
        self.assertIsInstance(given[1], ThreadPublisher)

    def test_port_in_use(self) -> None:
        """
        A site that cannot be had ends the daemon.
        """
        daemon = self.make(self.consumer(top='admin = "tcp:9419"'))

        def refuse(*_: object, **__: object) -> None:
            raise OSError("in use")

        self.patch(self.process, "listenTCP", refuse)
        daemon.startService()
        self.assertEqual(daemon.status, ExitStatus.CONFIG)
        self.successResultOf(daemon.stopService())

    def test_reload(self) -> None:
        """
        What can change changes; what cannot is named; what is wrong changes nothing.
        """
        daemon = self.make(self.consumer("prefetch = 5\nconcurrency = 5"))
        [consumer] = daemon.consumers
        text = self.consumer("prefetch = 9\nconcurrency = 8\nin_thread = true")
        self.path.write_text(f"stalled_after = 3\n{text}[log]\nlevel = 'debug'")
        with capturedLogs() as events:
            daemon.reread()
        self.assertEqual(consumer.runner.options.concurrency, 8)
        self.assertEqual(daemon.stalled_after, 3)
        [line] = map(formatEvent, events)
        self.assertEqual(
            line,
            "SIGHUP: changed: stalled_after, log.level, consumers.work.prefetch, "
            "consumers.work.concurrency; these settings need a restart: "
            "consumers.work.in_thread",
        )
        for wrong in ("prefetch = 'x'", "prefetch = 3\nconcurrency = 4"):
            self.path.write_text(self.consumer(wrong))
            with capturedLogs() as events:
                daemon.reread()
            self.assertIn("nothing has changed: ", formatEvent(events[0]))
            self.assertEqual(consumer.runner.options.concurrency, 8)
        self.path.write_text(self.consumer())
        daemon.reread()
        self.assertEqual(consumer.runner.options.concurrency, 100)
        self.path.write_text(self.consumer())
        with capturedLogs() as events:
            daemon.reread()
        self.assertEqual(formatEvent(events[0]), "SIGHUP: nothing has changed")

    def test_reload_needs_more(self) -> None:
        """
        What could change only together with what cannot is refused: or messages that
        fail would have no place.
        """
        daemon = self.make(self.consumer())
        self.path.write_text(
            self.consumer('on_error = "retry"\nretry = {parking = "dead"}')
        )
        with capturedLogs() as events:
            daemon.reread()
        self.assertIn(
            "nothing has changed: consumers[0].on_error", formatEvent(events[0])
        )
