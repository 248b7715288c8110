# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
Debian's ``amqp-tools``, which are commands written in C.
"""

from __future__ import annotations

import subprocess
import sys

from txamqp091.test.interop.foreign import say


def run(uri: str, command: str, *arguments: str, said: str = "") -> None:
    """
    Run a command, and write down what it says and its status.
    """
    done = subprocess.run(
        [f"amqp-{command}", f"--url={uri}", *arguments],
        input=said,
        capture_output=True,
        text=True,
        timeout=120,
    )
    shown = " ".join([command, *arguments])
    say(shown, done.returncode, done.stdout, done.stderr)


def main(uri: str) -> None:
    """
    Do all of it.
    """
    queue = "--queue=foreign-tools"
    key = "--routing-key=foreign-tools"
    run(uri, "declare-queue", queue, "-d")
    run(uri, "publish", key, "--body=one", "--persistent", "--content-type=text/plain")
    run(uri, "publish", key, "--line-buffered", said="two\nthree\n")
    run(uri, "publish", key, said="x" * 300_000)
    run(uri, "get", queue)
    for _ in range(2):
        run(uri, "consume", queue, "--count=1", "--prefetch-count=1", "cat")
    run(uri, "consume", queue, "--count=1", "--", "wc", "-c")
    run(uri, "get", queue)
    run(uri, "declare-queue", queue)
    run(uri, "publish", "--exchange=missing", "--routing-key=key", "--body=x")
    run(uri, "publish", "--exchange=amq.fanout", "--routing-key=key", "--body=x")
    run(uri, "get", "--queue=missing")
    run(uri, "consume", "--queue=missing", "cat")
    run(uri, "delete-queue", queue)
    run(uri.replace(":guest@", ":wrong@"), "get", queue)
    run(uri.rpartition("/")[0] + "/missing", "get", queue)


if __name__ == "__main__":
    main(sys.argv[1])
