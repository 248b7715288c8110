A native AMQP 0-9-1 client for Twisted: connections, channels, publishing with confirms and consuming, against RabbitMQ 3.10 to 4.3.
