Bytes go to the socket in the same turn of the reactor where Twisted's TCP transport holds none: a call of the broker costs two thirds, and bursts of messages hardly ever wait.
