A service reconnects after at most 10 s (it was 30 s), and writes one log line for each
attempt.  ``RetryPolicy(permanent="fail-at-start")`` gives up on errors such as a wrong
password before the first connection only.
