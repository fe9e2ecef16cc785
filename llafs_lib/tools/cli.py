"""The command `llafs`: thin, every subcommand is one library call."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from llafs_lib import __version__
from llafs_lib.errors import INTERRUPTED, LlafsError, refused
from llafs_lib.outputs import check_folder
from llafs_lib.settings import Settings
from llafs_lib.tools.app import add_app
from llafs_lib.tools.banking import add_bank
from llafs_lib.tools.demo import add_demo
from llafs_lib.tools.options import LLM, PARAMETERS, Parser, add_options, asker_of, examples, made
from llafs_lib.tools.segmenting import add_segment

if TYPE_CHECKING:
    from llafs_lib.tools.cluster import Resources
    from llafs_lib.tools.sweep import Sweep

_NUMBERS: dict[str, Any] = {"action": "extend", "type": lambda text: text.split(","), "default": [], "metavar": "NN"}

_TRAINED: dict[str, Any] = {
    "type": os.path.abspath,
    "metavar": "RUNS",
    "help": "take the models from this other folder of runs instead of training: to ask them about other images",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns: 0; 1 if some of many images failed, the others being done; 2 if the arguments or the data are at fault;
        130 after Ctrl-C. Whatever is not 0 prints a message on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 gets an escape for what it cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        status = arguments.command(arguments) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LlafsError as error:
        print(f"llafs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"llafs: {INTERRUPTED}", file=sys.stderr)
        return 130
    except Exception as error:
        if not (said := refused(error)):
            raise  # a bug
        print(f"llafs: {said}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llafs",
        description="Segment a class that nobody annotated: a language model names look-alike classes, whose annotated "
        "images show a few-shot model what to look for.",
        epilog="`llafs COMMAND --help` says more, with examples. Start with: llafs demo",
    )
    parser.add_argument("--version", action="version", version=f"llafs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    add_demo(commands.add_parser("demo", help="the first mask, in seconds, with a bank that comes with the package"))
    _add_tutorial(commands.add_parser("tutorial", help="run the notebooks in order and print the results table"))
    _add_sweep(commands.add_parser("sweep", help="run the notebooks for many folds and seeds, on one machine or many"))
    _add_ask(commands.add_parser("ask", help="ask a language model which classes look alike; keep its answers"))
    add_segment(commands.add_parser("segment", help="find classes in images: masks, label maps, COCO or YOLO files"))
    add_bank(commands.add_parser("bank", help="make a bank of annotated images of your own, list and correct it"))
    add_app(commands.add_parser("app", help="the same on a page in a browser, where masks can be corrected and kept"))
    _add_refresh(commands.add_parser("refresh", help="execute the committed notebooks in place (for maintainers)"))
    _add_stamp(commands.add_parser("stamp", help="write into the notebooks where Colab gets the library from"))
    return parser


# --- tutorial and sweep ----------------------------------------------------------------------------------------------


def _add_tutorial(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the notebooks in order on one fold of a data set and print the results table. What is unchanged since the "
        "last run is reused. Every option is a parameter of the notebooks."
    )
    parser.epilog = examples(
        ("tutorial", "on drawn scenes, without a download, in minutes"),
        ("tutorial --dataset coco-mini --fold 2 --shots 1", "on photographs (LLAFS_DATA says where they lie)"),
        ("tutorial --dataset my/objects.json", "on your own images and classes, from a COCO file"),
        ("tutorial --only 04,05", "these two again, whatever their state"),
    )
    add_options(parser, PARAMETERS.values())
    parser.add_argument("--only", help="run just these notebooks, whatever their state: 04, or 02,02b", **_NUMBERS)
    parser.add_argument("--trained", **_TRAINED)
    parser.set_defaults(command=_tutorial)


def _tutorial(arguments: argparse.Namespace) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.tutorial import run_tutorial

    settings = made(Settings, arguments)
    results = run_tutorial(settings, arguments.only, trained=arguments.trained or "")
    if results is not None:
        run = settings.run.path
        print(f"\n{text_report(results)}\n\nreport: {run / 'report.html'}\nexecuted notebooks: {run / 'notebooks'}")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    from llafs_lib.tools.cluster import Resources

    parser.description = (
        "Run the series for every fold and training seed, each as one Ray task, and merge the results into one report. "
        "What is finished is skipped, what fails is tried again and then listed."
    )
    parser.epilog = examples(
        ("sweep --dataset coco-mini --dry-run", "what would be run"),
        ("sweep --dataset coco-mini --folds 0-3 --seeds 0,1", "eight runs on this machine"),
        ("sweep --dataset coco-20i --budget full --gpus 1 --address HEAD:6379", "on a Ray cluster"),
        ("sweep --dataset coco-mini --only 05", "evaluate again, without training again"),
        ("sweep --dataset coco-mini --trained runs --runs others", "its models, on the images now in LLAFS_DATA"),
    )
    parser.add_argument("--folds", default="", help="such as 0-3 or 0,2 (default: all of the data set)")
    parser.add_argument("--seeds", default="0-2", help="of the training (default: %(default)s)")
    add_options(parser, [f for f in PARAMETERS.values() if f.name not in ("fold", "seed")])
    parser.add_argument("--only", help="run just these notebooks: 05, or 04,05", **_NUMBERS)
    parser.add_argument("--trained", **_TRAINED)
    parser.add_argument("--dry-run", action="store_true", help="list what would be run")
    add_options(parser, fields(Resources))
    parser.set_defaults(command=_sweep, queries=0)


def _sweep(arguments: argparse.Namespace) -> None:
    from llafs_lib.tools.cluster import Resources
    from llafs_lib.tools.sweep import Sweep, numbers
    from llafs_lib.tools.tutorial import folds_of, in_root

    settings, seeds, resources = made(Settings, arguments), numbers(arguments.seeds), made(Resources, arguments)
    folds = numbers(arguments.folds) if arguments.folds else folds_of(settings)
    with in_root(settings) as settings:
        sweep = Sweep(settings, tuple(folds), tuple(seeds), tuple(arguments.only), arguments.trained or "")
        _run_sweep(sweep, resources, arguments.dry_run)


def _run_sweep(sweep: Sweep, resources: Resources, only_listed: bool) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.sweep import dry_run, merge, run_sweep

    if only_listed:
        print(dry_run(sweep))
        return
    check_folder(sweep.folder)
    outcome = run_sweep(sweep, resources)
    print(f"{len(outcome.done)} runs done, {len(outcome.skipped)} were finished, {len(outcome.failed)} failed")
    for name, error in outcome.failed.items():
        print(f"  {name}: {error}", file=sys.stderr)
    if sweep.evaluates:
        results = merge(sweep, outcome.failed)
        print(f"\n{text_report(results)}\n\nreport: {sweep.folder / 'report.html'}")
    if outcome.failed:
        raise LlafsError(f"{len(outcome.failed)} runs failed: {', '.join(outcome.failed)}.")


# --- ask -----------------------------------------------------------------------------------------------------------


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print which classes of a data set, or of annotated images of your own, look like the ones asked about. "
        "Without --llm, recorded answers are replayed; with it, the model is asked through OPENAI_BASE_URL (default: "
        "OpenAI) with OPENAI_API_KEY, and its answers are kept in data/llm_cache."
    )
    parser.epilog = examples(
        ("ask giraffe", "replays the recorded answer"),
        ("ask giraffe okapi --llm MODEL", "asks MODEL, also for a word without a recorded answer"),
        ("ask --dataset coco-20i --llm MODEL --llm-budget 0.50", "all 80 classes, for half a dollar at most"),
        ("ask okapi --supports annotations.json --llm MODEL", "over the classes of that file"),
    )
    parser.add_argument("class_names", nargs="*", metavar="CLASS", help="default: all classes of the data set")
    parser.add_argument("--supports", metavar="FILE", help="ask over the classes of a COCO file or a folder of masks")
    add_options(parser, [PARAMETERS["dataset"], PARAMETERS["images"], *LLM])
    parser.set_defaults(command=_ask, dataset="coco-20i")


def _ask(arguments: argparse.Namespace) -> None:
    from llafs_lib.data.folds import class_names
    from llafs_lib.language.asking import Unanswered
    from llafs_lib.language.cost import cost_line

    settings = made(Settings, arguments, "images")
    if arguments.images and not (arguments.supports or settings.own):
        raise LlafsError("--images goes with --supports, which names the COCO file.")
    vocabulary = class_names(arguments.supports or settings.dataset, arguments.images)
    asker = asker_of(settings)
    failure = None
    try:
        answers = asker.related_to_each(arguments.class_names or vocabulary, vocabulary)
    except Unanswered as error:
        answers, failure = error.answers, error
    print(*answers.values(), cost_line(answers.values(), asker.prices), sep="\n")
    if failure:
        raise failure


# --- for maintainers -------------------------------------------------------------------------------------------------


def _add_refresh(parser: argparse.ArgumentParser) -> None:
    parser.description = "Execute the committed notebooks in place on toy, so that their outputs are current."
    parser.add_argument("--check", action="store_true", help="change nothing: say where a fresh run shows other things")
    parser.add_argument("only", nargs="*", metavar="NN", help="numbers such as 03; default: all")
    parser.set_defaults(command=_refresh)


def _refresh(arguments: argparse.Namespace) -> None:
    from llafs_lib.tools.committed import check_committed, refresh_committed

    (check_committed if arguments.check else refresh_committed)(arguments.only)


def _add_stamp(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the repository into the setup cell of every notebook, with a badge that opens it in Colab, and into "
        "README's table of the series."
    )
    parser.add_argument("--repo", metavar="OWNER/NAME", required=True, help="on GitHub")
    parser.set_defaults(command=_stamp)


def _stamp(arguments: argparse.Namespace) -> None:
    from llafs_lib.tools.colab import stamp

    changed = stamp(arguments.repo)
    print("\n".join(f"stamped: {path.as_posix()}" for path in changed) or "stamped already, nothing changed")
