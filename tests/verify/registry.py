"""Proofs: what they are, which code they are about, and running those that are not up to date.

A proof is a function that returns a dictionary of figures, with `passed` among them:

    @proof("models/mixture.py", "inference/em.py")
    def em_never_falls() -> Figures:
        '''Without a covariance floor, EM's log-likelihood falls by 1e-9 per iteration at most.'''
        worst = ...
        return {"passed": worst <= 1e-9, "worst_fall": worst}

Its result is one JSON file, written as soon as it ends, so that an interrupted run resumes where it stopped.
Name every folder that the proof leans on: a change elsewhere leaves it up to date.
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

Figures = Mapping[str, Any]
Status = Literal["passed", "failed", "unavailable"]

ROOT = Path(__file__).parents[2]


class Unavailable(Exception):
    """Raised by a proof that needs what is not there, such as a data set; its message says what."""


@dataclass(frozen=True)
class Proof:
    """A long proof.

    Args:
        name: The name of its function.
        run: Returns figures that JSON can hold, with a boolean `passed`.
        covers: Files or folders of the code that it proves, relative to the root of the repository.
    """

    name: str
    run: Callable[[], Figures]
    covers: tuple[str, ...]

    def files(self, root: Path = ROOT) -> dict[str, str]:
        """The sha256 of every Python and YAML file that the proof is about, its own module included.

        Raises:
            ValueError: Where an entry of `covers` is not there.
        """
        source = inspect.getsourcefile(self.run)
        paths = [Path(source).resolve()] if source else []
        for entry in self.covers:
            path = root / entry
            if not path.exists():
                raise ValueError(f"Expected files for {self.name} to cover; got no {entry!r} in the repository.")
            paths += [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in {".py", ".yaml"}]
        return {
            os.path.relpath(path, root.resolve()).replace(os.sep, "/"): _sha256(path.read_bytes())
            for path in sorted({path.resolve() for path in paths})
        }


PROOFS: dict[str, Proof] = {}


def proof(*covers: str) -> Callable[[Callable[[], Figures]], Callable[[], Figures]]:
    """Registers a function as a proof about the files or folders named.

    Raises:
        ValueError: Where the name is taken, or nothing is covered.
    """

    def register(run: Callable[[], Figures]) -> Callable[[], Figures]:
        name = run.__name__
        if name in PROOFS:
            raise ValueError(f"Expected a proof's name to be its own; got a second {name!r}.")
        if not covers:
            raise ValueError(f"Expected {name} to cover files or folders; got none.")
        PROOFS[name] = Proof(name, run, covers)
        return run

    return register


def up_to_date(proof: Proof, folder: Path, root: Path = ROOT) -> bool:
    """Whether the proof has passed on the code as it is now."""
    try:
        result = json.loads(_path(proof, folder).read_text(encoding="utf-8"))
        return bool(result["status"] == "passed" and result["digest"] == _digest(proof.files(root)))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run(proof: Proof, folder: Path, root: Path = ROOT) -> Status:
    """Runs one proof and writes `folder/NAME.json`; an exception fails the proof and is written down."""
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
        "digest": _digest(files),
        "files": files,
        "versions": _versions(),
    }
    _write(_path(proof, folder), json.dumps(result, indent=2) + "\n")
    return status


def run_all(proofs: Iterable[Proof], folder: Path, *, force: bool = False, root: Path = ROOT) -> int:
    """Runs the proofs that are not up to date, or all of them, and prints a line for each.

    Returns:
        An exit code: 1 where a proof failed, else 0.
    """
    counts = {"up to date": 0, "passed": 0, "failed": 0, "unavailable": 0}
    for one in proofs:
        if not force and up_to_date(one, folder, root):
            counts["up to date"] += 1
            print(f"{one.name}: up to date", flush=True)
            continue
        print(f"{one.name}: running ...", flush=True)
        status = run(one, folder, root)
        counts[status] += 1
        result = json.loads(_path(one, folder).read_text(encoding="utf-8"))
        detail = result["error"] or json.dumps(result["figures"])
        print(f"{one.name}: {status} in {result['seconds']:.1f} s: {detail}", flush=True)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


def _path(proof: Proof, folder: Path) -> Path:
    return folder / f"{proof.name}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _digest(files: Mapping[str, str]) -> str:
    return _sha256(json.dumps(files, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _versions() -> dict[str, str]:
    names = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
