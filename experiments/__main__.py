"""`python -m latentmix.experiments` is the command line."""

import sys
from contextlib import suppress
from os import getcwd

if not sys.flags.safe_path:
    with suppress(OSError):
        if sys.path[:1] in ([""], [getcwd()]):
            del sys.path[0]  # the working folder, put first by `python -m`, where its files would shadow modules

from latentmix.experiments.cli import main

sys.exit(main())
