``Publisher.publish(delay=...)`` has the broker hold a message for any whole number of seconds, up to eight years, without a plugin.
