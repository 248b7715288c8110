``ConnectionParameters(credentials=...)`` takes one object or several, as ``connect`` does. ``ICredentials.respond`` can be a coroutine function.
