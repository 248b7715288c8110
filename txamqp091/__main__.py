"""
``python -m txamqp091``: the command line.
"""

from __future__ import annotations

import sys

from txamqp091.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
