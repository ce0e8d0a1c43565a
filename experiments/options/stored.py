"""The configuration of a run, read back."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path

from jsonargparse import Namespace

from latentmix.experiments.options.experiment import experiment_parser
from latentmix.experiments.options.messages import one_line
from latentmix.experiments.reading.options import read_options

__all__ = ["read_configuration"]


def read_configuration(file: Path) -> Namespace:
    """The configuration of a `config.yaml`, complete with defaults; the classes that it names are imported.

    Args:
        file: The file.

    Raises:
        ValueError: If the file cannot be read, or is no configuration of an experiment.
    """
    values = read_options(file, "the configuration of a run")
    try:
        return experiment_parser().parse_object(values)
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"Expected the configuration of a run in {file}; got another: {one_line(error)}") from error
