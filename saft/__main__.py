"""`python -m saft` is `saft`."""

import sys

from saft.cli import main

sys.exit(main())
