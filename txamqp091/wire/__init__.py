# -*- test-case-name: txamqp091.test -*-
"""
Bytes to values and back: field tables, methods, message properties, frames.

Nothing here knows what may be said when, and nothing here imports Twisted.
`txamqp091.wire.spec` lists the protocol; start reading there.
"""

from __future__ import annotations

__all__: list[str] = []
