``RPCClient`` and ``RPCServer`` make remote calls by direct reply-to, with a deadline; when the link goes, pending calls fail at once.
