"""Puts `examples/` on the path: the tools use its scenes and its detector's features."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
