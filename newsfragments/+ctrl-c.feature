A connection made by ``connect`` closes in order when the reactor stops: at Ctrl-C an ``async for`` loop over messages just ends, and running handlers can settle their messages.
