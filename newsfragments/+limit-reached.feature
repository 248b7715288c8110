`LimitReached` tells that a limit on connections or channels is reached. It is retriable, as is a virtual host that is down.
