"""`latentmix run`: an experiment from a preset or a file of options."""

from __future__ import annotations

import textwrap
from pathlib import Path

import yaml

from latentmix.experiments.commands import (
    Usage,
    UsageError,
    add_seeds,
    add_trust,
    allowed_modules,
    command_parser,
    complete_run,
    complete_sweep,
    new_folder,
    preset_words,
)
from latentmix.experiments.places import check_continued_folder, check_new_folder
from latentmix.experiments.presets import preset_path, presets
from latentmix.experiments.reading.limits import raised_yaml_limits

USAGE = Usage(
    10,
    "run PRESET|FILE.yaml [--any.option value ...] [--seeds N] [--out DIR]",
    "train a VAE, fit both mixtures, report",
    lasting=True,
)
HELP = """usage: latentmix run PRESET|FILE.yaml [--out DIR] [--seeds N [--n-jobs N]] [--print_config] [options]

Trains a VAE, fits mixtures to its latents by EM and by SVI, and writes figures and a report into a new folder.

  PRESET           {presets}
  FILE.yaml        a file of options, such as the config.yaml of a run
  --out DIR        folder of the run, new or empty (default: runs/PRESET-DATE-TIME)
  --seeds N        N runs, with --seed and the seeds that follow it: a sweep over the seed into one folder, continued
                   where it was interrupted, with a table of means and intervals over seeds; --n-jobs N of them at a
                   time, -1 for as many as there are cores (default: 1)
  --trust MODULE   a module of your own whose classes FILE.yaml may name; repeatable
  --print_config   print the complete configuration as YAML, and run nothing

A list is typed as 256,128. A class is typed by its name, or by the import path of one of your own, with its
arguments as in Python or as options of their own; --optimizer.lr 0.01 alone changes an argument of the preset's class:
  --likelihood Bernoulli | ContinuousBernoulli | 'Gaussian(0.1)' | 'Gaussian(shared)' | 'Laplace(pixel)' | ...
  --prior StandardNormal | 'MixturePrior(10, covariance_type=full)' | VampPrior --prior.n_components 50 | ...
  --family DiagonalNormal | FullNormal | AutoregressiveFlow
  --optimizer 'Adam(lr=0.01)' | SGD --optimizer.lr 0.1 | ...   --scheduler 'StepLR(10)' | ...
  --objective Trace_ELBO | TraceMeanField_ELBO | TraceEnum_ELBO (enumerates a MixturePrior) |
              'RenyiELBO(alpha=0, num_particles=5)', with --beta, --warmup, --free_bits

"""


def main(words: list[str]) -> int:
    """Run an experiment, with several seeds if asked, print its table and, last, its folder.

    Returns:
        0; 1 if a run of several was refused or failed.
    """
    if {"--help", "-h"} & set(words):
        print_help()
        return 0
    preset_words(words, "run digits --epochs 5")
    parser = command_parser("run", others=("--seed",))
    parser.add_argument("preset", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET-DATE-TIME)")
    add_seeds(parser)
    add_trust(parser, "a file of options")
    parser.add_argument("--print_config", action="store_true", help="print the complete configuration and exit")
    arguments, options = parser.parse_known_args(words)
    preset_path(arguments.preset)
    name = Path(arguments.preset).stem
    several = arguments.seeds is not None
    if several and arguments.print_config:
        raise UsageError("Expected one of --seeds and --print_config, which runs nothing; got both.")
    if arguments.n_jobs is not None and not several:
        raise UsageError("Expected --seeds N with --n-jobs, which is a number of runs at a time; got --n-jobs alone.")
    out = arguments.out or new_folder(f"{name}-seeds" if several else name)
    if several:
        check_continued_folder(out, "sweep.json", "a sweep")
    elif not arguments.print_config:
        check_new_folder(out)

    from latentmix.experiments.options.command_line import parse_experiment
    from latentmix.experiments.options.experiment import Experiment
    from latentmix.experiments.options.settings import device_of

    config = parse_experiment(arguments.preset, options, allowed_modules(arguments.trust, options))
    config.name = config.name or name
    experiment = Experiment.from_config(config)
    device_of(experiment.training)
    if arguments.print_config:
        print(yaml.safe_dump(experiment.config, sort_keys=False), end="")
        return 0
    if several:
        return complete_sweep(arguments.preset, options, {}, out, arguments, pictures=True)

    from latentmix.experiments.runs.pipeline import run_experiment

    command = ["latentmix", "run", *words, *raised_yaml_limits()]
    complete_run(lambda: run_experiment(experiment, out, command=command), out)
    return 0


def print_help() -> None:
    """Print every option of an experiment."""
    from latentmix.experiments.options.experiment import experiment_parser
    from latentmix.experiments.options.help_text import options_help

    names = textwrap.fill(", ".join(presets()), 100, subsequent_indent=" " * 19, break_on_hyphens=False)
    print(HELP.format(presets=names) + options_help(experiment_parser()), end="")
