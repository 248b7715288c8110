``Channel.flush()`` waits until the broker has processed what was sent on the channel.
