from __future__ import annotations

import sys
from pathlib import Path

FIRST_LIGHT = Path(__file__).parents[2] / "studies" / "first-light"
sys.path.insert(0, str(FIRST_LIGHT))  # the study's own modules, as its commands see them
