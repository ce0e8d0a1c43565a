"""`latentmix ex-post`: the prior of a finished run swapped for mixtures of its training latents."""

from __future__ import annotations

import json
from pathlib import Path

from latentmix.experiments.commands import (
    Usage,
    add_run,
    allowed_modules,
    command_parser,
    write_result,
)
from latentmix.experiments.places import check_new_file, check_run

USAGE = Usage(
    60,
    "ex-post RUN [--n_components 10,50,100] [--out FILE.json]",
    "swap the prior for mixtures of the training latents",
)
OPTIONS = """\
options of the comparison:
  --n_components 10,50,100                 components of the mixtures
  --forms samples,expected,noise_aware     what the mixtures are fitted to
  --covariance_type TYPE                   full or diag
  --images, --noise_images, --test_images  how many images the mixtures are fitted to, and measured on
  --samples, --draws                       samples of q per image, and how often they are drawn
  --max_iter, --reg_covar, --seed          of EM
"""


def main(words: list[str]) -> None:
    """Print the gain of each prior, and write the gains to a file if asked."""
    parser = command_parser("ex-post", epilog=OPTIONS)
    add_run(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new JSON file for the figures")
    arguments, options = parser.parse_known_args(words)
    check_new_file(arguments.out)
    check_run(arguments.run)

    from latentmix.experiments.options.command_line import parse_settings
    from latentmix.experiments.runs.ex_post import ExPost, as_json, measure_ex_post, table
    from latentmix.experiments.runs.run import load_run

    settings = parse_settings(ExPost, options, lists=("n_components", "forms"))
    run = load_run(arguments.run, allowed_modules(arguments.trust))
    gains = measure_ex_post(run, settings, print)
    write_result(arguments.out, json.dumps({"run": str(arguments.run), **as_json(gains, settings)}, indent=2))
    print("\nmean log p(x) of the test data by importance weighting, and its gain over the prior of training, in nats")
    print(f"\n{table(gains)}")
