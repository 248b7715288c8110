"""
Makes the queue of a task, empty or with so many messages in it.  Nothing is measured.
"""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import react

from benchmarks.measure import Task
from txamqp091.arguments import classic_queue
from txamqp091.endpoint import connect
from txamqp091.message import Message


async def run(reactor: IReactorCore) -> None:
    task = Task.from_command_line()
    connection = await connect(reactor, task.uri)
    channel = await connection.open_channel()
    await channel.queue_delete(task.queue)
    await channel.queue_declare(task.queue, arguments=classic_queue())
    await channel.confirm_select(task.window)
    await channel.publish_many(
        Message("", task.queue, task.body) for _ in range(task.count)
    )
    await connection.close()
    print("{}")


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
