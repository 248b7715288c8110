# -*- test-case-name: txamqp091.test.unit.wire.test_method -*-
"""
Print the source that was compiled for methods::

    python -m txamqp091.wire BasicPublish BasicDeliver
"""

from __future__ import annotations

import sys

from txamqp091.wire import spec
from txamqp091.wire.method import source

__all__: list[str] = []

if __name__ == "__main__":  # pragma: no cover - in a process of its own
    for name in sys.argv[1:]:
        sys.stdout.write(source(getattr(spec, name)))
