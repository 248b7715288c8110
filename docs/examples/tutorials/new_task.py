import os
import sys

from twisted.internet.task import react

from txamqp091 import DeliveryMode, Properties, connect


async def main(reactor, *words):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    task = " ".join(words) or "Hello World!"
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.queue_declare("task_queue")
        persistent = Properties(delivery_mode=DeliveryMode.PERSISTENT)
        await channel.basic_publish("", "task_queue", task, persistent)
        print(f" [x] Sent {task}")


react(main, sys.argv[1:])
