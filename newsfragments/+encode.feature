``Publisher(..., encode="json")``, or with a function, publishes objects.
