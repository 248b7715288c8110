"""
Makes the queues of tasks, empty or with so many messages in them.  Nothing is measured.

One process makes all of them: it reads tasks from its standard input, one a line, and
answers each with a line once its queue is there.
"""

from __future__ import annotations

import json
import sys

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.measure import Task
from txamqp091.arguments import classic_queue
from txamqp091.endpoint import connect
from txamqp091.message import Message


async def run(reactor: IReactorCore) -> None:
    connection = await connect(reactor, sys.argv[1])
    channel = await connection.open_channel()
    await channel.confirm_select()
    last = ""
    while line := await deferToThread(sys.stdin.readline):
        task = Task(**json.loads(line))
        if last:
            await channel.queue_delete(last)
        last = task.queue
        await channel.queue_delete(task.queue)
        await channel.queue_declare(task.queue, arguments=classic_queue())
        await channel.publish_many(
            Message("", task.queue, task.body) for _ in range(task.count)
        )
        print(flush=True)
    if last:
        await channel.queue_delete(last)
    await connection.close()


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
