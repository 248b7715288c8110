"""
Handlers for our daemon.
"""

from __future__ import annotations

import json
from typing import Any

from counting import done

__all__ = ["coroutine", "plain"]


def plain(delivery: Any) -> None:
    """
    A function.
    """
    done(json.loads(delivery.body))


async def coroutine(delivery: Any) -> None:
    """
    A coroutine that awaits nothing.
    """
    done(json.loads(delivery.body))
