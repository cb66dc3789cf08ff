"""`python -m lmanet_core.commands`: the `lmanet` command of whichever interpreter runs it."""

import sys

from lmanet_core.process import always_leave_quietly

always_leave_quietly()  # before the rest is imported

from lmanet_core.commands.main import main  # noqa: E402

sys.exit(main())
