``twistd amqp-consumer --diff`` compares what would be declared with what the broker has, changes nothing, and tells by its exit status whether all is as it should be.
