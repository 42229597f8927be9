"""`python -m finetune_operator.controller`: the operator's process, as the image starts it."""

from __future__ import annotations

import sys

from finetune_operator.controller.main import main

sys.exit(main())
