"""`python -m llafs_lib` is the command `llafs`."""

import sys

from llafs_lib.tools.cli import main

sys.exit(main())
