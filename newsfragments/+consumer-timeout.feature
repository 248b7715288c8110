The in-memory broker heeds ``x-consumer-timeout``, of quorum queues and of their consumers, as RabbitMQ 4.3 does.
