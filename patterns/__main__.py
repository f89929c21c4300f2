"""Run the `patterns` command as `python -m patterns`."""

import sys

from patterns._kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
