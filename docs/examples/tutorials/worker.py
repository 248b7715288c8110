import os

from twisted.internet.task import deferLater, react

from txamqp091 import connect


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    connection = await connect(reactor, uri)
    channel = await connection.open_channel()
    await channel.queue_declare("task_queue")

    async def work(delivery):
        task = delivery.body.decode()
        print(f" [x] Received {task}")
        await deferLater(reactor, task.count("."))  # a second for each dot
        print(f" [x] Done with {task}")

    await channel.basic_consume("task_queue", work, prefetch=1, ack_on_return=True)
    print(" [*] Waiting for messages. To exit press CTRL+C")
    await connection.when_closed()


react(main)
