"""Files and words of options in YAML, checked before any value is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from latentmix.experiments.reading.limits import MAX_DEPTH, yaml_limit
from latentmix.experiments.reading.yaml_faults import yaml_fault
from latentmix.models.reading import read_text

__all__ = ["check_yaml", "options_text", "parse_yaml", "read_options", "read_yaml", "yaml_value"]

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Plain values; a date stays a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def read_options(path: Path, expected: str = "options by their names") -> dict[str, Any]:
    """The options of a YAML file.

    Args:
        path: The file.
        expected: The expected content, for messages.

    Raises:
        ValueError: If the file cannot be read, exceeds a limit of `limits`, is no mapping by names, names an option
            twice, or has tags of other than plain values.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.reading.options import read_options
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "short.yaml").write_text("epochs: 3")
        ...     read_options(Path(folder, "short.yaml"))
        {'epochs': 3}
    """
    values = read_yaml(path, expected)
    if not isinstance(values, dict):
        kind = {type(None): "an empty file", list: "a list", str: "a word"}.get(type(values), "a single value")
        raise ValueError(f"Expected {expected} in {path}; got {kind}: write lines such as `epochs: 20`.")
    return values


def read_yaml(path: Path, expected: str) -> Any:
    """The value of a YAML file, as `read_options` reads it; it need not be a mapping."""
    return yaml_value(options_text(path, expected), path, expected)


def yaml_value(text: str, path: Path, expected: str) -> Any:
    """The value of the YAML in a file's text.

    Raises:
        ValueError: If the text exceeds a limit or is no YAML; the message names the file.
    """
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected {expected} in {path}; got {yaml_fault(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {expected} in {path}; got a value that is none ({error}): correct it.") from error


def options_text(path: Path, expected: str) -> str:
    """The text of a file of options.

    Raises:
        ValueError: If the file is not there, is no regular file, exceeds its limit, or is no UTF-8.
    """
    return read_text(path, expected, most=yaml_limit("max_yaml_mib") * 2**20, option="--max_yaml_mib")


def parse_yaml(text: str) -> Any:
    """The value of YAML within the limits, as `check_yaml` checks it.

    Raises:
        yaml.YAMLError: If it exceeds a limit or is no YAML.
        ValueError: If a value is none.
    """
    check_yaml(text)
    return yaml.load(text, _Loader)


def check_yaml(text: str) -> None:
    r"""Refuse YAML that exceeds a limit, names a key twice, has keys that are no words, or tags.

    Args:
        text: The text; it is parsed, and no value of it is built.

    Raises:
        yaml.YAMLError: If so, or if the text is no YAML.

    Example:
        >>> from latentmix.experiments.reading.options import check_yaml
        >>> check_yaml("epochs: 3")
        >>> check_yaml("epochs: 3\nepochs: 5")
        Traceback (most recent call last):
            ...
        yaml.error.MarkedYAMLError: 'epochs' twice
          in "<unicode string>", line 2, column 1
    """
    sizes: dict[str, int] = {}
    stack: list[_Level] = []
    total, most = 0, yaml_limit("max_yaml_values")
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            _check_tag(event)
            if stack:
                stack[-1].check_key(event, None)
            stack.append(_Level(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(stack) > MAX_DEPTH:
                raise _error(event, f"values nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            level = stack.pop()
            anchor, size = level.anchor, level.size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _error(event, f"*{event.anchor} before or within &{event.anchor}")
            anchor, size = None, sizes[event.anchor]
            if stack:
                stack[-1].check_key(event, None)
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event)
            anchor, size = event.anchor, 1 + len(event.value) // 1000
            if stack:
                stack[-1].check_key(event, event.value)
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if stack:
            stack[-1].size += size
            total = stack[0].size
        if max(total, size, *(level.size for level in stack[-2:])) > most:
            words = f"more than {most:,} values, aliases counted where they stand: allow more by --max_yaml_values"
            raise _error(event, words)


class _Level:
    """A list or a mapping that is not closed yet: the values within, and the keys."""

    def __init__(self, anchor: str | None, mapping: bool) -> None:
        self.anchor, self.mapping = anchor, mapping
        self.size, self.nodes = 1, 0
        self.keys: set[str] = set()

    def check_key(self, event: Any, word: str | None) -> None:
        """Count a value of this level, and check it if it is a key."""
        self.nodes += 1
        if not self.mapping or self.nodes % 2 == 0:
            return
        resolved = word is not None and _RESOLVER.resolve(yaml.ScalarNode, word, event.implicit) in _NAMES
        if word is None or not resolved:
            shown = "a list or a mapping" if word is None else f"{word!r:.40}"
            raise _error(event, f"{shown} where a name belongs")
        if word in self.keys:
            raise _error(event, f"{word!r:.40} twice")
        self.keys.add(word)


_RESOLVER: Any = yaml.resolver.Resolver()


def _check_tag(event: Any) -> None:
    if event.tag is not None and event.tag != "!" and event.tag not in _TAGS:
        raise _error(event, f"the tag {event.tag!r:.60}, which is none of a plain value")


def _error(event: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
