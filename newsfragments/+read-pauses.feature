A connection reads less often while RabbitMQ sends small pieces fast (``read_pause``): consuming from RabbitMQ costs less.
