``raise Retry(after=3600)`` in a handler retries a message after any delay.
