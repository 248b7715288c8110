``async for delivery in channel.consume(queue)`` works on asyncio and Tornado without an inner
``await``, as it does natively.
