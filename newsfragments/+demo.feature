``make demo`` needs no server: it runs on the broker in memory, breaks its own connection, and accounts for every message.
