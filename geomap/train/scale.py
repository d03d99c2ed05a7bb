"""Start value and upper limit of the logit scale that both training methods learn."""

from __future__ import annotations

from typing import Final

INITIAL_SCALE: Final = 1 / 0.07
"""Paper section 3: temperature 0.07."""
MAX_SCALE: Final = 100.0
"""The learned scale never exceeds this (paper section 3)."""
