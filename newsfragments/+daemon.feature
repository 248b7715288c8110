``twistd amqp-consumer`` runs a handler of yours for each message of a queue.
