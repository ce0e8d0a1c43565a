"""`python -m tests.verify [NAME ...] [--list] [--force] [--out DIR]`, from the root of the repository."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.verify import proofs
from tests.verify.registry import PROOFS, ROOT, run_all, up_to_date


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the long proofs that are not up to date; returns 1 if one failed, 2 if one is unknown."""
    for module in pkgutil.iter_modules(proofs.__path__):
        importlib.import_module(f"{proofs.__name__}.{module.name}")
    parser = argparse.ArgumentParser(prog="make verify", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run these alone")
    parser.add_argument("--list", action="store_true", help="list the proofs, and run none")
    parser.add_argument("--force", action="store_true", help="run those that are up to date as well")
    parser.add_argument("--out", type=Path, default=ROOT / "verify", metavar="DIR", help="where the JSON files lie")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in PROOFS]
    if unknown:
        parser.error(f"Expected names among {', '.join(PROOFS) or 'none'}; got {', '.join(unknown)}.")
    chosen = [PROOFS[name] for name in options.names or PROOFS]
    if options.list:
        for proof in chosen:
            print(f"{proof.name}: {'up to date' if up_to_date(proof, options.out) else 'to run'}")
        return 0
    return run_all(chosen, options.out, force=options.force)


if __name__ == "__main__":
    sys.exit(main())
