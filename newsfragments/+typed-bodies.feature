``ConsumerService(..., decode="json")``, or with a function, calls the handler with an
object instead of bytes.  A message that cannot be decoded is dead at once.
