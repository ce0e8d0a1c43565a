"""Option parsers that read no files: a value is what was typed or read, never a path that the parser would open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse._actions import _ActionConfigLoad
from yaml import YAMLError

from latentmix.experiments.options.loader import MODE, load

__all__ = ["SealedParser"]


class _Group(_ActionConfigLoad):
    """A group of options as a value: a mapping, or YAML of one."""

    def _load_config(self, value: Any, parser: Any) -> Any:
        if isinstance(value, str):
            try:
                loaded = load(value)
            except (YAMLError, ValueError, RecursionError) as error:
                raise TypeError(f'Parser key "{self.dest}": {error}') from error
            if not isinstance(loaded, Mapping):
                raise TypeError(f'Parser key "{self.dest}": Unable to load config {value!r}')
            value = loaded
        load_config: Any = super()._load_config
        return load_config(value, parser)


class SealedParser(ArgumentParser):
    """A parser that opens no files, and changes into no folders, whatever a value says.

    The base class opens a file that a value names, in a folder into which it changes, by rules of its own (home
    folders, URLs). Files of options are read by `included` before, within the limits on them.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"parser_mode": MODE, "exit_on_error": False, **options})

    def add_class_arguments(self, *arguments: Any, **options: Any) -> Any:
        return self._sealed(super().add_class_arguments(*arguments, **options))

    def add_subclass_arguments(self, *arguments: Any, **options: Any) -> Any:
        return self._sealed(super().add_subclass_arguments(*arguments, **options))

    def _sealed(self, result: Any) -> Any:
        for action in self._actions:
            if hasattr(action, "_enable_path"):
                action._enable_path = False
            if type(action) is _ActionConfigLoad:
                action.__class__ = _Group
        return result
