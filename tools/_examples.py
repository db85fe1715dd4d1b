"""Puts `examples/` on the path: the tools draw with its scenes, and read features as its detector does."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
