import os

from twisted.internet.defer import gatherResults
from twisted.internet.task import react

from txamqp091 import Message, Returned, connect


async def main(reactor):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        queue = (await channel.queue_declare("", exclusive=True)).queue
        await channel.confirm_select()
        for number in range(100):
            await channel.basic_publish("", queue, str(number))
        print(" [1] 100 messages, one by one")
        await gatherResults(
            channel.basic_publish("", queue, str(number)) for number in range(1000)
        )
        print(" [2] 1000 messages, all under way at once")
        await channel.publish_many(Message("", queue, str(n)) for n in range(1000))
        print(" [3] 1000 messages, with one Deferred for all")
        try:
            await channel.basic_publish("", "no_such_queue", "lost?", mandatory=True)
        except Returned as error:
            print(f" [4] not lost: {error}")


react(main)
