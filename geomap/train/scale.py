"""The logit scale that both methods learn: where it starts and where it stops."""

from __future__ import annotations

from typing import Final

INITIAL_SCALE: Final = 1 / 0.07
"""Paper section 3: temperature 0.07."""
MAX_SCALE: Final = 100.0
"""The learned scale never exceeds this (paper section 3)."""
