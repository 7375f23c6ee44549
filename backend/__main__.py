"""`python -m backend`, for a checkout: the program of this folder, whatever is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from roundtrip.cli import main  # only now is it found

sys.exit(main(sys.argv[1:]))
