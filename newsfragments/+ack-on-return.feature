``basic_consume(..., ack_on_return=True)`` acknowledges a message when its handler has
succeeded and has not settled the message.
