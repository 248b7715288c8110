A message whose handler fails goes back to its queue each time: at once, or after 5 seconds
when it was redelivered.  It is no longer rejected, and so discarded, the second time,
unless you consume with ``on_failure="reject"``.
