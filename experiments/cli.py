"""The command line, from `latentmix run` to `latentmix bench`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.experiments.presets import preset_path, presets

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["main"]

USAGE = """\
usage: latentmix COMMAND ...

  run PRESET|FILE.yaml [--any.option value ...] [--out DIR]   train a VAE, fit both mixtures, report
  sweep PRESET --grid NAME=V1,V2,... [--n-jobs N] [--any.option value ...]   every cell of a grid, compared
  resume RUN                                  go on with an interrupted run
  list                                        the presets
  evaluate RUN [--split S] [--samples N] [--data.option value ...]    measure a run on another split or data set
  ex-post RUN [--n_components 10,50,100] [--out FILE.json]    swap the prior for mixtures of the training latents
  select RUN|FILE.npy|FILE.csv [--n_components 1..10] [--out DIR]   how many components: criteria, picture, modes
  classify RUN IMAGES [--out FILE.csv]        class probabilities of images (.npy, .npz, picture files)
  sample RUN [-n N] [--out FILE.png]          images drawn from the prior
  report RUN                                  write report.html anew
  bench svi|em [--sizes 60000x20x10,...] [--covariance_type full,...]   measure speed, beside other libraries

  --version, --help; --debug after any command shows the traceback of an error; `latentmix run --help` lists
  every option of an experiment.
"""


CALLS = """
A part is a class by its name or import path, with arguments as in Python or as options of their own:
  --likelihood Bernoulli | ContinuousBernoulli | 'Gaussian(0.1)' | 'Gaussian(shared)' | 'Laplace(pixel)' | ...
  --prior StandardNormal | 'MixturePrior(10, covariance_type=full)' | VampPrior --prior.n_components 50 | ...
  --family DiagonalNormal | FullNormal | AutoregressiveFlow
  --objective Trace_ELBO | TraceMeanField_ELBO | TraceEnum_ELBO (enumerates a MixturePrior) |
              'RenyiELBO(alpha=0, num_particles=5)', with --beta, --warmup, --free_bits
"""


CRITERIA = """\
criteria:
  bic, aic, icl      lower is better, in nats times two
  held_out           log-likelihood of points that a fit has not seen, nats per point; higher is better
  loo                PSIS-LOO: each point's posterior predictive log-density given the others, nats per point; higher is
                     better; under weak conjugate priors and about the fit's mode, so no figure of the fit itself
  dirichlet_process  how many of the most components it uses
"""
BENCH_EM = """\
Prints seconds per iteration, growth of memory (MiB) and mean log-likelihood (nats per point) of EM here and in
scikit-learn, pomegranate and torchgmm, a table for each size and covariance type as it is done.
"""


class UsageError(ValueError):
    """A command line that cannot be understood."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `latentmix`; by default those of the process.

    Returns:
        0; 1 after a sweep with failed cells; 2 after an error in what was asked; 130 after an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"latentmix {version('latentmix')}")
        return 0
    path, code = list(sys.path), None
    sys.path.insert(0, os.getcwd())  # a class of the user's own is looked for where the command is given
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # within Pyro
            warnings.showwarning = _warn
            code = _command(words[0])(words[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        print(f"latentmix: interrupted{interrupt}", file=sys.stderr)
        return 130
    except (argparse.ArgumentError, ValueError, ArithmeticError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"latentmix: {one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:  # what no check foresaw is one line too, and says where to look
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split()) or "no reason given"
        print(f"latentmix: {type(error).__name__}: {text:.300} (--debug shows where)", file=sys.stderr)
        return 2
    finally:
        sys.path[:] = path
    return code or 0


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"latentmix: warning: {message}", file=sys.stderr)


def _command(name: str) -> Callable[[list[str]], int | None]:
    known: dict[str, Callable[[list[str]], int | None]] = {
        "run": _run,
        "sweep": _sweep,
        "resume": _resume,
        "list": _list,
        "evaluate": _evaluate,
        "ex-post": _ex_post,
        "select": _select,
        "classify": _classify,
        "sample": _sample,
        "report": _report,
        "bench": _bench,
    }
    if name not in known:
        raise UsageError(f"Expected a command out of {', '.join(known)}; got {name!r}.")
    return known[name]


def _run(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands
    from latentmix.experiments.options.experiment import Experiment, experiment_parser

    if "--help" in words or "-h" in words:
        print(
            f"usage: latentmix run PRESET|FILE.yaml [--out DIR] [options]\n\npresets: {', '.join(presets())}\n{CALLS}"
        )
        print(re.sub(r"^usage:.*?\n\n", "", experiment_parser().format_help(), flags=re.DOTALL))
        return
    if words and words[0].startswith("-"):
        raise UsageError(f"Expected the preset first, as in `latentmix run digits --epochs 5`; got {words[0]}.")
    parser = _parser("run")
    parser.add_argument("preset", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET-DATE-TIME)")
    known, rest = parser.parse_known_args(words)
    config = parse_experiment(known.preset, rest)
    name = Path(known.preset).stem
    out = known.out or Path("runs") / f"{name}-{_moment()}"
    config.name = config.name or name
    commands.run(Experiment.from_config(config), out)


def _moment() -> str:
    """The time to a millisecond, so that runs started at once have names of their own."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]


def parse_experiment(preset: str, words: Sequence[str]) -> Namespace:
    """The configuration of a preset, or of a YAML file, with options that override it."""
    from latentmix.experiments.options.experiment import experiment_parser, option_words
    from latentmix.experiments.options.grids import option_value

    split = option_words(words)
    words = [option_value(name.removeprefix("--"), word) for name, word in zip(["", *split], split, strict=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = experiment_parser().parse_args(["--config", str(preset_path(preset)), *words])
    config.pop("config", None)
    return config


def _sweep(words: list[str]) -> int:
    from latentmix.experiments.options.grids import parse_grid
    from latentmix.experiments.sweeps.sweep import sweep

    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        raise UsageError(
            f"Expected the preset first, as in `latentmix sweep digits --grid epochs=5,10`; got {words[0]}."
        )
    parser = _parser("sweep", epilog="--any.option value: what all cells share, as for `latentmix run`")
    parser.add_argument("preset", help="a preset (`latentmix list`) or a YAML file of options")
    parser.add_argument("--grid", action="append", default=[], metavar="NAME=V1,V2,...", help="an option that varies")
    parser.add_argument("--n-jobs", type=int, default=1, help="cells at a time; -1 for as many as there are cores")
    parser.add_argument("--backend", default="loky", help="joblib's back end: loky, multiprocessing, dask, ray")
    parser.add_argument("--pictures", action="store_true", help="figures and a report for every cell")
    parser.add_argument("--out", type=Path, help="folder of the sweep, new or to go on with")
    known, rest = parser.parse_known_args(words)
    out = known.out or Path("runs") / f"{Path(known.preset).stem}-sweep-{_moment()}"
    results = sweep(
        known.preset,
        rest,
        parse_grid(known.grid),
        out,
        n_jobs=known.n_jobs,
        backend=known.backend,
        pictures=known.pictures,
    )
    print(out)
    return 1 if results["counts"]["failed"] else 0


def _resume(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("resume")
    parser.add_argument("run", type=Path, help="the folder of the run")
    commands.resume(parser.parse_args(words).run)


def _list(words: list[str]) -> None:
    _parser("list").parse_args(words)
    width = max(map(len, presets()))
    for name, description in presets().items():
        print(f"{name:{width}}  {description}")


def _evaluate(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("evaluate", epilog="--data.source, --data.root, --data.classes, ...: other data than the run's")
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--split", choices=("train", "validation", "test", "all"), default="test")
    parser.add_argument("--samples", type=int, default=0, help="of q, for the importance-weighted log-likelihood")
    parser.add_argument("--out", type=Path, help="a new JSON file for the figures")
    known, rest = parser.parse_known_args(words)
    if known.samples < 0:
        raise UsageError(f"Expected --samples of at least 0; got {known.samples}.")
    commands.evaluate(known.run, known.split, rest, known.samples, known.out)


def _ex_post(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser(
        "ex-post",
        epilog="what is compared: --n_components 10,50,100, --forms samples,expected,noise_aware, --covariance_type, "
        "--images, --noise_images, --test_images, --samples, --draws, --max_iter, --reg_covar, --seed",
    )
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--out", type=Path, help="a new JSON file for the figures")
    known, rest = parser.parse_known_args(words)
    commands.ex_post(known.run, rest, known.out)


def _select(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("select", epilog=CRITERIA)
    parser.add_argument(
        "source", type=Path, help="a run's folder, for its training latents, or a .npy or .csv of points"
    )
    parser.add_argument(
        "--n_components", default="1..10", metavar="K", help="numbers of components, as 1..10 or 2,5,8 (default: 1..10)"
    )
    types = "full,diag,tied,spherical"
    parser.add_argument("--covariance_types", default=types, metavar="TYPES", help=f"covariances (default: {types})")
    parser.add_argument("--criteria", metavar="NAMES", help="what is measured, by commas (default: all six below)")
    parser.add_argument(
        "--criterion", metavar="NAME", help="what chooses the mixture of the mode report (default: bic)"
    )
    numbers = {
        "points": (5000, "most points; of more, a random draw"),
        "starts": (5, "starts of every fit, the best is kept"),
        "mode_starts": (20, "starts of the mode report"),
        "folds": (5, "folds of the held-out log-likelihood"),
        "draws": (1000, "posterior draws for loo, from 50"),
        "seed": (0, "seed of starts, folds and draws"),
        "n-jobs": (1, "fits at a time; -1 for as many as there are cores"),
    }
    _add_numbers(parser, numbers)
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: runs/select-NAME-DATE-TIME)")
    known = vars(parser.parse_args(words))
    source, out = known.pop("source"), known.pop("out")
    commands.select(source, known, out or Path("runs") / f"select-{source.resolve().stem}-{_moment()}")


def _classify(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("classify")
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("images", type=Path, nargs="+", help=".npy or .npz arrays, or picture files")
    parser.add_argument("--inference", choices=("em", "svi"), default="em", help="which fit of the mixture")
    parser.add_argument("--labels", choices=("none", "few", "all"), help="which label budget (default: few)")
    parser.add_argument("--out", type=Path, help="a new CSV file for the table (default: print it)")
    known = parser.parse_args(words)
    commands.classify(known.run, known.images, known.inference, known.labels, known.out)


def _sample(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("sample")
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("-n", type=int, default=64, help="how many images, or points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="a new .png or .npy file")
    known = parser.parse_args(words)
    commands.sample(known.run, known.n, known.seed, known.out)


def _report(words: list[str]) -> None:
    from latentmix.experiments.commands import actions as commands

    parser = _parser("report")
    parser.add_argument("run", type=Path, help="the folder of the run")
    commands.report(parser.parse_args(words).run)


def _bench(words: list[str]) -> None:
    if words[:1] == ["em"]:
        _bench_em(words[1:])
        return
    from latentmix.experiments.commands import actions as commands

    parser = _parser("bench")
    parser.add_argument("name", choices=("svi", "em"), help="of an epoch of SVI, or of EM: `latentmix bench em --help`")
    parser.parse_args(words)
    commands.bench_svi()


def _bench_em(words: list[str]) -> None:
    parser = _parser("bench em", epilog=BENCH_EM)
    sizes = "60000x20x10,200000x10x50,1000000x8x10"
    parser.add_argument(
        "--sizes", default=sizes, metavar="NxDxK,...", help=f"points x features x components (default: {sizes})"
    )
    parser.add_argument(
        "--covariance_type",
        default="full",
        metavar="TYPES",
        help="full, diag, tied, spherical, by commas (default: full)",
    )
    numbers = {
        "iterations": (5, "EM iterations that are timed"),
        "repeats": (3, "times of each at least, for a median"),
    }
    _add_numbers(parser, numbers)
    said = "time for which each comparison is repeated at least (default: 20)"
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help=said)
    parser.add_argument(
        "--dtype", default="float64", metavar="TYPE", help="of the points: float64 or float32 (default: float64)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of every library (default: as torch has)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new JSON file (default: none)")
    known = vars(parser.parse_args(words))
    # scikit-learn's array API mode asks for this before SciPy is imported, which is not yet.
    os.environ.setdefault("SCIPY_ARRAY_API", "1")
    from latentmix.experiments.commands import actions as commands

    found = []
    for word in known["sizes"].split(","):
        if not re.fullmatch(r"\d+x\d+x\d+", word):
            raise UsageError(f"Expected --sizes of points x features x components, such as 60000x20x10; got {word!r}.")
        found.append(tuple(map(int, word.split("x"))))
    types, out = known.pop("covariance_type").split(","), known.pop("out")
    report = partial(print, file=sys.stderr, flush=True) if sys.stderr.isatty() else None
    commands.bench_em(known | {"sizes": found, "covariance_types": types, "report": report}, out)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        if message.startswith("unrecognized arguments: "):
            first = message.split(": ")[1].split()[0]
            raise UsageError(f"Expected arguments and options out of `{self.prog} --help`; got {first}.")
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser(command: str, epilog: str | None = None) -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter if "\n" in (epilog or "") else argparse.HelpFormatter
    return _Parser(prog=f"latentmix {command}", allow_abbrev=False, epilog=epilog, formatter_class=kind)


def _add_numbers(parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int, str]]) -> None:
    for name, (default, said) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{said} (default: {default})")


def one_line(error: BaseException) -> str:
    """An error as one line."""
    from latentmix.experiments.options.messages import condensed

    return condensed(str(error))
