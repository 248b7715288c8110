``channel.join_acks()`` makes one ``basic.ack`` of those that follow one another in a turn of the reactor.
