Large bodies cost a fraction of what they did: one that comes is put together in a buffer that the connection keeps, and one that is published is not copied before the transport has room for it.
