``ConsumerService(..., batch=100)`` calls the handler with a list of messages.  ``Partial``
says which of them have failed.
