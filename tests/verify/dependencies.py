"""The files of the project that a Python file depends on, and digests of their code.

Imports are followed, lazy ones included. A name that a package's `__init__.py` imports from elsewhere leads to the file
that defines it, not to the other files of the package.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOMS = ("models", "guides", "inference", "experiments")


def dependencies(start: Iterable[Path], root: Path, without: Iterable[Path] = ()) -> set[Path]:
    """The files that some files import, directly or not, these included.

    Args:
        start: Python files.
        root: Root of the repository, where `latentmix.models` is the folder `models`.
        without: Files and folders whose imports are not followed, and that are left out.
    """
    excluded = list(without)
    pending = list(start)
    seen = set(pending)
    while pending:
        for name, _ in imports(pending.pop().read_bytes()):
            path = _defining_file(name, root)
            if path is not None and path not in seen and not any(path.is_relative_to(other) for other in excluded):
                seen.add(path)
                pending.append(path)
    return seen


def digest(path: Path) -> str:
    """The sha256 of a file's content; of a Python file's code, without comments, docstrings and layout."""
    content = path.read_bytes()
    return hashlib.sha256(_code(content) if path.suffix == ".py" else content).hexdigest()


@cache
def _code(content: bytes) -> bytes:
    tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[documented:] or [ast.Pass()]
    return ast.unparse(tree).encode()


@cache
def imports(content: bytes) -> list[tuple[str, str]]:
    """Dotted names that a file imports, each with its name in the file; `from a import b` gives `a.b` and `b`.

    Lazy imports and those for annotations alone are among them; relative names begin with a dot.
    """
    pairs = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            pairs += [(f"{module}{alias.name}", alias.asname or alias.name) for alias in node.names]
    return pairs


def _defining_file(name: str, root: Path) -> Path | None:
    """The file of a module, or the file that defines a module's attribute; None outside the project."""
    module = _file_of(name, root)
    if module is not None:
        return module
    package, _, attribute = name.rpartition(".")
    module = _file_of(package, root) if package else None
    if module is None or module.name != "__init__.py":
        return module
    exported = {local: imported for imported, local in imports(module.read_bytes())}
    return _defining_file(exported[attribute], root) if attribute in exported else module


def _file_of(module: str, root: Path) -> Path | None:
    first, _, rest = module.partition(".")
    if first == "latentmix" and rest.partition(".")[0] in ROOMS:
        place = root.joinpath(*rest.split("."))
    elif first == "tests":
        place = root.joinpath(*module.split("."))
    else:
        return None
    candidates = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)
