"""The benchmarks import one another as `run.py` does, by the names of their files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
