``Publisher.returned`` counts the mandatory messages that no queue took.
