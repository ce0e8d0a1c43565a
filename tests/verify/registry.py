"""Proofs: long checks that run again only when the code that they depend on has changed.

A proof is a function that returns a dictionary of figures, with `passed` among them:

    @proof()
    def em_never_falls() -> Figures:
        '''Without a covariance floor, EM's log-likelihood falls by 1e-9 per iteration at most.'''
        worst = ...
        return {"passed": worst <= 1e-9, "worst_fall": worst}

It depends on what its module imports, see `dependencies`, and on the files and folders that `proof` names: data,
scripts for other processes, classes chosen by name. Comments, docstrings and layout do not count. Its result is one
JSON file, written when it ends, so that `run_all` resumes after an interruption.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from latentmix.models.files import write_atomically

from tests.verify.dependencies import dependencies, digest

Figures = Mapping[str, Any]
Status = Literal["passed", "failed", "unavailable"]

ROOT = Path(__file__).parents[2]
# imported, but not run, by a mixture that is fitted by EM
BESIDES_EM = ("inference/mixtures/nuts", "inference/mixtures/svi", "inference/objectives", "inference/svi")


class Unavailable(Exception):
    """Raised by a proof without its prerequisites, such as a data set; the message names them."""


@dataclass(frozen=True)
class Proof:
    """A long proof.

    Args:
        name: The name of its function.
        run: Returns figures that JSON can hold, with a boolean `passed`.
        covers: Files or folders that the result depends on besides the imports, relative to the root.
        without: Files or folders that the result does not depend on, though they are imported.
    """

    name: str
    run: Callable[[], Figures]
    covers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def files(self, root: Path = ROOT) -> dict[str, str]:
        """Digests of all files that the result depends on, by their path relative to the root.

        Raises:
            ValueError: If an entry of `covers` or `without` does not exist.
        """
        root = root.resolve()
        named = {entry: root / entry for entry in (*self.covers, *self.without)}
        for entry, path in named.items():
            if not path.exists():
                raise ValueError(f"Expected files for {self.name} to cover; got no {entry!r} in the repository.")
        covered = [file for entry in self.covers for file in _files_in(named[entry])]
        source = inspect.getsourcefile(self.run)
        modules = [*([Path(source).resolve()] if source else []), *(file for file in covered if file.suffix == ".py")]
        excluded = [*(named[entry] for entry in self.without), *(root / "tests" / "verify" / name for name in _OWN)]
        imported = dependencies(modules, root, excluded)
        return {
            os.path.relpath(path, root).replace(os.sep, "/"): digest(path) for path in sorted({*covered, *imported})
        }


_OWN = ("registry.py", "dependencies.py")
PROOFS: dict[str, Proof] = {}


def _files_in(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in {".py", ".yaml"}]


def proof(*covers: str, without: Iterable[str] = ()) -> Callable[[Callable[[], Figures]], Callable[[], Figures]]:
    """Register a function as a proof.

    Args:
        *covers: Files or folders that the result depends on besides the imports, relative to the root.
        without: Files or folders that the result does not depend on, though they are imported.

    Raises:
        ValueError: If the name is taken.
    """

    def register(run: Callable[[], Figures]) -> Callable[[], Figures]:
        name = run.__name__
        if name in PROOFS:
            raise ValueError(f"Expected a proof's name to be its own; got a second {name!r}.")
        PROOFS[name] = Proof(name, run, covers, tuple(without))
        return run

    return register


def up_to_date(proof: Proof, folder: Path, root: Path = ROOT) -> bool:
    """Whether the proof has passed on the present code."""
    try:
        result = json.loads(_path(proof, folder).read_text(encoding="utf-8"))
        return bool(result["status"] == "passed" and result["digest"] == _joint_digest(proof.files(root)))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run(proof: Proof, folder: Path, root: Path = ROOT) -> Status:
    """Run one proof and write `folder/NAME.json`; an exception fails the proof and is recorded."""
    files = proof.files(root)
    start = time.perf_counter()
    status: Status
    figures: Figures = {}
    error = None
    try:
        figures = proof.run()
        if not isinstance(figures.get("passed"), bool):
            raise ValueError(f"Expected figures with a boolean 'passed' from {proof.name}; got {dict(figures)}.")
        json.dumps(figures, allow_nan=False)
        status = "passed" if figures["passed"] else "failed"
    except Unavailable as reason:
        status, error = "unavailable", str(reason)
    except Exception as cause:
        status, figures = "failed", {}
        error = "".join(traceback.format_exception_only(cause)).strip()
        traceback.print_exc()
    result = {
        "proof": proof.name,
        "claim": inspect.getdoc(proof.run),
        "status": status,
        "error": error,
        "figures": dict(figures),
        "seconds": round(time.perf_counter() - start, 3),
        "digest": _joint_digest(files),
        "files": files,
        "versions": _versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(_path(proof, folder), (json.dumps(result, indent=2) + "\n").encode())
    return status


def run_all(proofs: Iterable[Proof], folder: Path, *, force: bool = False, root: Path = ROOT) -> int:
    """Run the proofs that are not up to date, or all of them, and print a line for each.

    Returns:
        An exit code: 1 if a proof failed, else 0.
    """
    counts = {"up to date": 0, "passed": 0, "failed": 0, "unavailable": 0}
    for proof in proofs:
        if not force and up_to_date(proof, folder, root):
            counts["up to date"] += 1
            print(f"{proof.name}: up to date", flush=True)
            continue
        print(f"{proof.name}: running ...", flush=True)
        status = run(proof, folder, root)
        counts[status] += 1
        result = json.loads(_path(proof, folder).read_text(encoding="utf-8"))
        detail = result["error"] or json.dumps(result["figures"])
        print(f"{proof.name}: {status} in {result['seconds']:.1f} s: {detail}", flush=True)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


def _path(proof: Proof, folder: Path) -> Path:
    return folder / f"{proof.name}.json"


def _joint_digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    names = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
