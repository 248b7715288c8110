"""
pika's SelectConnection, its own event loop: callbacks only.
"""

from __future__ import annotations

from typing import Any

import pika
from pika.channel import Channel

from benchmarks.measure import Meter, Task, case_of, report


class Case:
    """
    What is done once the channel is open.
    """

    def __init__(self, connection: pika.SelectConnection, task: Task) -> None:
        self.connection = connection
        self.task = task
        self.meter = Meter(task, connection.ioloop.call_later)
        self.channel: Channel
        self.body = task.body
        self.published = self.confirmed = self.received = 0

    def open(self, channel: Channel) -> None:
        self.channel = channel
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def round_trip(self) -> None:
        """
        The broker answers to this when it has dealt with all that came before.
        """
        self.channel.queue_declare(self.task.queue, passive=True, callback=self.end)

    def end(self, _: object = None) -> None:
        self.meter.stop()
        report(self.meter, {"pika": pika.__version__})
        self.connection.close()


class Publish(Case):
    """
    A call for each message.  The loop is let turn now and then, or all messages
    would be in memory before the first one leaves.
    """

    def begin(self) -> None:
        self.meter.start()
        self.publish_some()

    def publish_some(self) -> None:
        for _ in range(min(self.task.chunk, self.task.count - self.published)):
            self.channel.basic_publish("", self.task.queue, self.body)
            self.published += 1
        if self.published < self.task.count:
            self.connection.ioloop.call_later(0, self.publish_some)
        else:
            self.round_trip()


class Confirm(Case):
    """
    A call for each message, with so many unconfirmed.
    """

    def begin(self) -> None:
        self.channel.confirm_delivery(self.answered, self.selected)

    def selected(self, _: object) -> None:
        self.meter.start()
        self.refill()

    def refill(self) -> None:
        allowed = min(self.confirmed + self.task.window, self.task.count)
        for _ in range(allowed - self.published):
            self.channel.basic_publish("", self.task.queue, self.body)
        self.published = allowed

    def answered(self, frame: Any) -> None:
        # RabbitMQ answers for a single queue in order.
        self.confirmed = max(self.confirmed, frame.method.delivery_tag)
        if self.confirmed == self.task.count:
            self.end()
        else:
            self.refill()


class Consume(Case):
    """
    A callback is called with each message.
    """

    def begin(self) -> None:
        self.meter.start()
        self.channel.basic_consume(self.task.queue, self.handle, auto_ack=True)

    def handle(self, *_: object) -> None:
        self.received += 1
        if self.received == self.task.count:
            self.end()


class Ack(Case):
    """
    A callback is called with each message, and acknowledges it.
    """

    def begin(self) -> None:
        self.channel.basic_qos(prefetch_count=self.task.prefetch, callback=self.limited)

    def limited(self, _: object) -> None:
        self.meter.start()
        self.channel.basic_consume(self.task.queue, self.handle)

    def handle(self, channel: Channel, method: Any, *_: object) -> None:
        channel.basic_ack(method.delivery_tag)
        self.received += 1
        if self.received == self.task.count:
            self.round_trip()


class Keep(Case):
    """
    All messages are kept.
    """

    def begin(self) -> None:
        self.kept: list[object] = []
        self.meter.start()
        self.channel.basic_consume(self.task.queue, self.handle, auto_ack=True)

    def handle(self, *message: object) -> None:
        self.kept.append(message)
        if len(self.kept) == self.task.count:
            self.end()


class Get(Case):
    """
    One message after the other.
    """

    def begin(self) -> None:
        self.meter.start()
        self.channel.basic_get(self.task.queue, self.handle, auto_ack=True)

    def handle(self, *_: object) -> None:
        self.received += 1
        if self.received == self.task.count:
            self.end()
        else:
            self.channel.basic_get(self.task.queue, self.handle, auto_ack=True)


class Declare(Case):
    """
    One round trip after the other.
    """

    def begin(self) -> None:
        self.meter.start()
        self.declare()

    def declare(self, _: object = None) -> None:
        self.received += 1
        callback = self.declare if self.received < self.task.count else self.end
        self.channel.queue_declare(self.task.queue, passive=True, callback=callback)


class Connect(Case):
    """
    One connection after the other.
    """

    def begin(self) -> None:
        self.meter.start()
        self.connect()

    def connect(self, *_: object) -> None:
        if self.received == self.task.count:
            self.end()
            return
        self.received += 1
        pika.SelectConnection(
            pika.URLParameters(self.task.uri),
            on_open_callback=lambda connection: connection.close(),
            on_close_callback=self.connect,
            custom_ioloop=self.connection.ioloop,
        )


class Channels(Case):
    """
    Many channels that do nothing.
    """

    def begin(self) -> None:
        self.opened: list[Channel] = []
        self.meter.start()
        self.connection.channel(on_open_callback=self.opened_one)

    def opened_one(self, channel: Channel) -> None:
        self.opened.append(channel)
        if len(self.opened) < self.task.count:
            self.connection.channel(on_open_callback=self.opened_one)
        else:
            self.end()


CASES: dict[str, type[Case]] = {
    "publish": Publish,
    "confirm": Confirm,
    "consume": Consume,
    "ack": Ack,
    "keep": Keep,
    "get": Get,
    "declare": Declare,
    "connect": Connect,
    "channels": Channels,
}


def run() -> None:
    task = Task.from_command_line()
    case = case_of(task, CASES)

    def opened(connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=case(connection, task).open)

    connection = pika.SelectConnection(
        pika.URLParameters(task.uri),
        on_open_callback=opened,
        on_close_callback=lambda connection, _: connection.ioloop.stop(),
    )
    connection.ioloop.start()


if __name__ == "__main__":
    run()
