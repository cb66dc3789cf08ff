"""`python -m lmanet_core.commands`: the `lmanet` command of whichever interpreter runs it."""

import sys

from lmanet_core.commands.main import main

sys.exit(main())
