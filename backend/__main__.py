"""`python -m backend`, for a checkout: the program of this folder, whatever is installed."""

import sys
from pathlib import Path

if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit("roundtrip: needs Python 3.11 to 3.13; this is {}.{}".format(*sys.version_info))
sys.path.insert(0, str(Path(__file__).parent))
from roundtrip.cli import main  # only now is it found

sys.exit(main(sys.argv[1:]))
