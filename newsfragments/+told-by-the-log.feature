The log has one warning, with the cause and the remedy, when the broker ends a channel or a
connection with consumers and nobody waits for that, and when a consumer's prefetch window
is full of deliveries that nobody settles.
