An ``ssl.SSLContext`` of the program's own can be given to the asyncio, Tornado and blocking adapters, as ``ssl_context``.
