"""`python -m latentmix.experiments` is the command line."""

import sys

from latentmix.experiments.cli import main

sys.exit(main())
