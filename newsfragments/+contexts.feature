A channel, a consumer and an iterator are asynchronous contexts, and
``async for delivery in channel.consume(queue)`` needs no inner ``await``.
