# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
The daemon's settings: from file, environment and flags, and what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.daemon.settings import LogThreshold, Settings
from txamqp091.daemon.settings_loading import (
    differences,
    load,
    unknown_variables,
    variables,
)
from txamqp091.daemon.settings_schema import Problem
from txamqp091.worker.failure_policy import Dead, OnError

NOWHERE = """
[[consumers]]
queue = "orders"
handler = "shop:order"
"""

LEAST = NOWHERE + "dead_letters = true\n"

RETRIES = """
[[consumers]]
queue = "orders"
handler = "shop:order"
declare = true
[consumers.retry]
delays = [1, 10.5]
parking = "orders.parked"
"""


class ConfigCase(SynchronousTestCase):
    """
    Settings from a file.
    """

    def load(
        self,
        text: str,
        environ: Mapping[str, str] = {},  # noqa: B006
        flags: Mapping[str, str] = {},  # noqa: B006
        consumer: Mapping[str, Any] | None = None,
    ) -> Settings:
        """
        Load a file with this text.
        """
        self.path = Path(self.mktemp())
        self.path.write_text(text)
        return load(str(self.path), environ, flags, consumer)

    def problem(self, text: str, *others: Any) -> str:
        """
        What is wrong with a file, without the file's own name.
        """
        problem = str(self.assertRaises(Problem, self.load, text, *others))
        return problem.removeprefix(f"{self.path}: ")


class LoadTests(ConfigCase):
    """
    What a file may say.
    """

    def test_least(self) -> None:
        """
        A queue and a handler are enough, and a place for dead messages.
        """
        settings = self.load(LEAST)
        [consumer] = settings.consumers
        self.assertEqual((consumer.queue, consumer.label), ("orders", "orders"))
        self.assertEqual((consumer.prefetch, consumer.concurrency), (100, None))
        self.assertIs(consumer.means, OnError.ONCE_MORE)
        self.assertEqual(settings.shutdown_timeout, 30)
        self.assertEqual(len(settings.topology()), 0)
        options = consumer.handler_options(settings.log.messages)
        self.assertEqual((options.consumer, options.concurrency), ("orders", 100))

    def test_all(self) -> None:
        """
        A file may say much, about several consumers, and exchanges, queues and
        bindings besides.
        """
        settings = self.load(
            """
            uri = ["amqp://one", "amqp://two"]
            shutdown_timeout = 5
            admin = "tcp:9419:interface=127.0.0.1"
            [log]
            level = "debug"
            format = "json"
            [[exchanges]]
            name = "shop"
            type = "topic"
            [[queues]]
            name = "stock"
            arguments = { x-queue-type = "quorum", x-dead-letter-exchange = "" }
            [[bindings]]
            source = "shop"
            queue = "stock"
            routing_key = "stock.#"
            [[consumers]]
            queue = "orders"
            handler = "shop:order"
            prefetch = 20
            concurrency = 5
            order_by = "header:customer"
            timeout = 2.5
            in_thread = true
            declare = true
            [consumers.retry]
            delays = [1, 10.5]
            attempts = 7
            parking = "orders.parked"
            [[consumers]]
            name = "stock-keeper"
            queue = "stock"
            handler = "shop:stock"
            on_error = "reject"
            """
        )
        orders, stock = settings.consumers
        self.assertEqual(settings.uri, ("amqp://one", "amqp://two"))
        self.assertEqual(stock.label, "stock-keeper")
        self.assertIs(orders.means, OnError.RETRY)
        self.assertIs(stock.means, OnError.REJECT)
        policy = orders.handler_options(settings.log.messages).policy
        self.assertEqual((policy.delays, policy.attempts), ((1, 10.5), 7))
        topology = settings.topology()
        self.assertEqual(
            [each.name for each in topology.queues],
            [
                "stock",
                "orders",
                "orders.parked",
                "orders.retry.1s",
                "orders.retry.10500ms",
            ],
        )
        self.assertNotIn("amqp://one", repr(settings))

    def test_declared_queue(self) -> None:
        """
        A queue that the daemon declares dead-letters to the dead-letter queue, and
        delays by itself if the settings say so.
        """
        settings = self.load(RETRIES + 'method = "broker"')
        queue = settings.topology().queue("orders")
        assert queue is not None
        self.assertEqual(
            dict(queue.arguments),
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": 25,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "orders.parked",
                "x-delayed-retry-type": "failed",
                "x-delayed-retry-min": 1000,
                "x-delayed-retry-max": 10500,
            },
        )
        self.assertTrue(settings.consumers[0].broker_delays)

    def test_methods(self) -> None:
        """
        Delay queues delay, unless the settings say that the broker does.
        """
        settings = self.load(RETRIES)
        queue = settings.topology().queue("orders")
        assert queue is not None
        self.assertNotIn("x-delayed-retry-type", queue.arguments)
        self.assertFalse(settings.consumers[0].broker_delays)
        settings = self.load(RETRIES + 'method = "broker"')
        names = [each.name for each in settings.topology().queues]
        self.assertEqual(names, ["orders", "orders.parked"])
        self.assertIn(
            "needs declare = true",
            self.problem(
                RETRIES.replace("declare = true", "") + 'method = "broker"',
            ),
        )
        self.assertIn(
            "not one of delay-queues, broker", self.problem(RETRIES + 'method = "auto"')
        )

    def test_queue_types(self) -> None:
        """
        The queue that is declared may be of another type.
        """
        for kind, arguments in {
            "classic": {"x-queue-type": "classic"},
            "default": {},
        }.items():
            text = RETRIES.replace("declare", f'queue_type = "{kind}"\ndeclare')
            queue = self.load(text).topology().queue("orders")
            assert queue is not None
            dead = {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "orders.parked",
            }
            self.assertEqual(dict(queue.arguments), {**arguments, **dead})


class RefusalTests(ConfigCase):
    """
    What a file may not say, with the place where it says so.
    """

    def test_unknown(self) -> None:
        """
        A key that is not known is refused, and what was meant is guessed.
        """
        self.assertEqual(
            self.problem(LEAST + "prefetc = 3"),
            "consumers[0].prefetc: there is no such setting; did you mean prefetch?",
        )
        self.assertEqual(
            self.problem("qqq = 3\n" + LEAST), "qqq: there is no such setting"
        )

    def test_types(self) -> None:
        """
        So is a value of another type, or out of bounds.
        """
        for text, problem in {
            'prefetch = "3"': "prefetch: is a string, not an integer",
            "prefetch = true": "prefetch: is a boolean, not an integer",
            "prefetch = 70000": "prefetch: is 70000, more than 65535",
            "prefetch = -1": "prefetch: is -1, less than 0",
            "timeout = nan": "timeout: is nan, not a finite number",
            "timeout = []": "timeout: is a list, not a number",
            "in_thread = 1": "in_thread: is an integer, not a boolean",
            'on_error = "retyr"': "on_error: is 'retyr', not one of once-more, retry, "
            "reject, drop, halt; did you mean retry?",
            "retry = 3": "retry: is an integer, not a table",
            'retry = {delays = [1, "a"]}': "retry.delays[1]: is a string, not a number",
            "retry = {delays = []}": "retry.delays: is empty",
            "order_by = 2000-01-01": "order_by: is a date, not a string",
            "order_by = {}": "order_by: is a table, not a string",
            'order_by = "header:"': "order_by: lacks the name of the header",
            'order_by = "key"': "order_by: is 'key', neither routing-key nor "
            "header:NAME",
            "prefetch = 5\nconcurrency = 6": "concurrency: is 6, more than prefetch, "
            "which is 5: the rest would never have a message",
        }.items():
            self.assertEqual(self.problem(LEAST + text), f"consumers[0].{problem}")

    def test_structure(self) -> None:
        """
        There have to be consumers, with different names, and all that they need.
        """
        for text, problem in {
            "": "consumers: there are none",
            "consumers = 3": "consumers: is an integer, not a list of tables",
            "consumers = [3]": "consumers[0]: is an integer, not a table",
            "[[consumers]]\nqueue = 'a'": "consumers[0].handler: is missing",
            "[[consumers]]\nqueue = ''\nhandler = 'a:b'": "consumers[0].queue: is "
            "empty",
            LEAST + "declare = true\n[[queues]]\nname = 'orders'": "consumers[0]"
            ".declare: is true, and the queue 'orders' is in the list of queues too",
        }.items():
            self.assertEqual(self.problem(text), problem)
        self.assertIn(
            "consumers[1].name: 'orders' is the name of", self.problem(LEAST + LEAST)
        )
        self.assertIn("queues[0]", self.problem(LEAST + "[[queues]]\nnaem = 'a'"))

    def test_no_place_for_the_dead(self) -> None:
        """
        A consumer that would discard messages is refused, unless the settings say so.
        The problem names what to do.
        """
        self.assertIn(
            'consumers[0].on_error: is "retry", and there is no table',
            self.problem(LEAST + 'on_error = "retry"'),
        )
        for text in (
            "",
            'on_error = "once-more"',
            'on_error = "reject"',
            "retry = {}",
            "retry = {attempts = 3}",
            "[[queues]]\nname = 'others'",
        ):
            problem = self.problem(NOWHERE + text)
            self.assertIn("consumers[0].dead_letter_queue: is missing", problem)
            for remedy in ("declare = true", "dead_letters = true", '= "drop"'):
                self.assertIn(remedy, problem)
        self.assertIn(
            "is the consumer's own queue",
            self.problem(NOWHERE + 'retry = {parking = "orders"}'),
        )
        self.assertIn(
            "retry.parking is set too",
            self.problem(NOWHERE + 'dead_letter_queue="a"\nretry = {parking = "b"}'),
        )

    def test_places_for_the_dead(self) -> None:
        """
        What the settings may say about dead messages.
        """
        listed = (
            "retry = {}\n[[queues]]\nname = 'orders'\n"
            "arguments = {x-dead-letter-exchange = 'dead'}"
        )
        for text, queue, on_dead in (
            ("declare = true", "orders.dead", Dead.QUEUE),
            ("declare = true\nretry = {}", "orders.dead", Dead.QUEUE),
            ('declare = true\non_error = "reject"', "orders.dead", Dead.QUEUE),
            ('declare = true\non_error = "drop"', "", Dead.DROP),
            ("declare = true\ndead_letters = true", "", Dead.EXCHANGE),
            ('dead_letter_queue = "d"', "d", Dead.QUEUE),
            ('retry = {parking = "d"}', "d", Dead.QUEUE),
            ("dead_letters = true", "", Dead.EXCHANGE),
            ("retry = {dead_letters = true}", "", Dead.EXCHANGE),
            ('on_error = "drop"', "", Dead.DROP),
            ('on_error = "halt"', "", Dead.HALT),
            ("[[queues]]\nname = 'orders'", "orders.dead", Dead.QUEUE),
            (listed, "", Dead.EXCHANGE),
        ):
            settings = self.load(NOWHERE + text)
            [consumer] = settings.consumers
            self.assertEqual(consumer.dead_queue, queue, text)
            self.assertIs(consumer.handler_options().policy.on_dead, on_dead, text)
            declared = settings.topology().queue("orders.dead" if not queue else queue)
            self.assertEqual(declared is not None, bool(queue), text)
        self.assertIn(
            "neither quorum nor classic",
            self.problem(NOWHERE + 'retry = {parking = "p", queue_type = "default"}'),
        )

    def test_names(self) -> None:
        """
        Names that AMQP cannot have are refused, also those of delay queues.
        """
        name = "ä" * 120
        for suffix, more, words in (
            ("a" * 15, "", ""),
            ("a" * 16, "", "queue: is too long"),
            ("", "[consumers.retry]\nparking = 'p'\ndelays = [10]", ""),
            ("a", "[consumers.retry]\nparking = 'p'\ndelays = [1, 0.001]", ""),
            ("aaaaa", "[consumers.retry]\nparking = 'p'\ndelays = [1, 10]", ""),
            (
                "aaaaaa",
                "[consumers.retry]\nparking = 'p'\ndelays = [1, 10]",
                "queue: is",
            ),
            ("", "[consumers.retry]\nparking = '" + "p" * 256 + "'", "queue: is"),
            ("", "name = '" + "n" * 256 + "'", "name: is too long"),
        ):
            text = LEAST.replace("orders", name + suffix) + more
            if words:
                self.assertIn(f"consumers[0].{words}", self.problem(text))
            else:
                self.load(text)
        long = "x" * 256
        self.assertEqual(
            self.problem(f'{LEAST}[[queues]]\nname = "a"\n[[queues]]\nname = "{long}"'),
            "queues[1].name: has more than 255 octets",
        )

    def test_files(self) -> None:
        """
        A file that is not there, or no TOML, is named.
        """
        problem = self.assertRaises(Problem, load, "/nowhere.toml", {}, {})
        self.assertEqual(
            str(problem), "/nowhere.toml: cannot be read: No such file or directory"
        )
        self.assertIn("is not TOML", self.problem("a = "))
        self.path.write_bytes(b"\xff")
        problem = self.assertRaises(Problem, load, str(self.path), {}, {})
        self.assertIn("it is not UTF-8", str(problem))
        self.assertTrue(str(problem).startswith(str(self.path)))


class StrengthTests(ConfigCase):
    """
    The environment is stronger than the file, and flags are stronger than both.
    """

    def test_order(self) -> None:
        """
        The strongest counts.
        """
        text = "shutdown_timeout = 1\nthreads = 1\nstalled_after = 1\n" + LEAST
        environ = {
            "TXAMQP091_SHUTDOWN_TIMEOUT": "2",
            "TXAMQP091_THREADS": "2",
            "TXAMQP091_LOG_LEVEL": "debug",
            "TXAMQP091_LOG_MESSAGES": "yes",
            "TXAMQP091_CONSUMERS_ORDERS_PREFETCH": "2",
            "TXAMQP091_CONSUMERS_ORDERS_RETRY_DELAYS": "1, 2",
            "TXAMQP091_CONSUMERS_ORDERS_RETRY_PARKING": "dead",
        }
        flags = {"shutdown_timeout": "3", "log.level": "warn"}
        settings = self.load(text, environ, flags)
        self.assertEqual(settings.shutdown_timeout, 3)
        self.assertEqual((settings.threads, settings.stalled_after), (2, 1))
        self.assertIs(settings.log.level, LogThreshold.WARN)
        self.assertTrue(settings.log.messages)
        [consumer] = settings.consumers
        self.assertEqual(consumer.prefetch, 2)
        assert consumer.retry is not None
        self.assertEqual(consumer.retry.delays, (1, 2))
        settings = self.load(text, environ, {"consumers.prefetch": "7"})
        self.assertEqual(settings.consumers[0].prefetch, 7)

    def test_names_what_is_wrong(self) -> None:
        """
        An error names the variable, or the flag.
        """
        for name, text, problem in (
            ("THREADS", "x", "is 'x', not an integer"),
            ("THREADS", "0", "is 0, less than 1"),
            ("LOG_LEVEL", "loud", "is 'loud', not one of"),
            ("LOG_MESSAGES", "maybe", "is 'maybe', not true or false"),
            ("CONSUMERS_ORDERS_TIMEOUT", "-1", "is -1.0, less than 0"),
        ):
            name = f"TXAMQP091_{name}"
            self.assertIn(f"{name}: {problem}", self.problem(LEAST, {name: text}))
        for flag, text, problem in (
            ("shutdown_timeout", "x", "--shutdown-timeout: is 'x', not a number"),
            ("consumers.prefetch", "x", "--prefetch: is 'x', not an integer"),
            ("log.level", "loud", "--log-level: is 'loud', not one of"),
        ):
            self.assertIn(problem, self.problem(LEAST, {}, {flag: text}))

    def test_without_file(self) -> None:
        """
        A consumer may come from the command line alone.
        """
        consumer = {"queue": "q", "handler": "a:b", "declare": True}
        settings = load(None, {"TXAMQP091_CONSUMERS_Q_PREFETCH": "3"}, {}, consumer)
        self.assertEqual(settings.consumers[0].prefetch, 3)
        problem = self.assertRaises(Problem, load, None, {}, {})
        self.assertEqual(str(problem), "consumers: there are none")

    def test_shared_variables(self) -> None:
        """
        A variable that would set two consumers is refused.
        """
        text = LEAST.replace("orders", "shop.a") + LEAST.replace("orders", "shop-a")
        self.load(text)
        name = "TXAMQP091_CONSUMERS_SHOP_A_PREFETCH"
        self.assertEqual(
            self.problem(text, {name: "1"}),
            f"{name}: sets both the consumers 'shop.a' and 'shop-a': give one of them "
            "another name",
        )
        text = LEAST.replace("orders", "a") + LEAST.replace("orders", "a.retry")
        name = "TXAMQP091_CONSUMERS_A_RETRY_QUEUE_TYPE"
        self.assertIn("both the consumers", self.problem(text, {name: "classic"}))

    def test_unknown_variables(self) -> None:
        """
        What looks like a variable of ours, and is none, is noticed.
        """
        settings = self.load(LEAST)
        found = unknown_variables(
            {
                "TXAMQP091_URI": "",
                "TXAMQP091_TREADS": "1",
                "TXAMQP091_CONSUMERS_ORDERS_PREFETCH": "1",
                "HOME": "",
            },
            settings,
        )
        self.assertEqual(found, ["TXAMQP091_TREADS (did you mean TXAMQP091_THREADS?)"])
        self.assertIn("TXAMQP091_CONSUMERS_<NAME>_RETRY_DELAYS", list(variables()))
        self.assertNotIn("TXAMQP091_QUEUES", list(variables()))


class DifferenceTests(ConfigCase):
    """
    What has changed since the settings were read before.
    """

    def changed(self, old: str, new: str) -> dict[str, bool]:
        """
        What has changed, and whether it can.
        """
        return dict(differences(self.load(old), self.load(new)))

    def test_differences(self) -> None:
        """
        Some settings can change while the daemon runs, others need a restart.
        """
        self.assertEqual(self.changed(LEAST, LEAST), {})
        self.assertEqual(
            self.changed(
                LEAST, "threads = 3\n" + LEAST + "prefetch = 3\nin_thread = true"
            ),
            {
                "threads": False,
                "consumers.orders.prefetch": True,
                "consumers.orders.in_thread": False,
            },
        )
        self.assertEqual(
            self.changed(RETRIES, RETRIES + "attempts = 9\n[log]\nlevel = 'debug'"),
            {"log.level": True, "consumers.orders.retry.attempts": True},
        )
        self.assertEqual(
            self.changed(LEAST, RETRIES),
            {
                "consumers.orders.retry": False,
                "consumers.orders.declare": False,
                "consumers.orders.dead_letters": False,
            },
        )
        other = LEAST.replace("queue", "name = 'more'\nqueue")
        self.assertEqual(self.changed(LEAST, LEAST + other), {"consumers.more": False})
