Whatever a handler logs has the queue, the routing key, the message-id and the correlation-id of its message, in JSON and in text.
