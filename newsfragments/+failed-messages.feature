A message whose handler fails goes back to its queue each time: at once the first time, and
5 seconds later after that.  It is no longer rejected, and so discarded, the second time,
unless you consume with ``on_failure="reject"``.
