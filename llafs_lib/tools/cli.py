"""The command `llafs`: thin, every subcommand is one library call."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llafs_lib import __version__
from llafs_lib.classes import did_you_mean
from llafs_lib.errors import LlafsError
from llafs_lib.settings import METHODS, Settings, unknown
from llafs_lib.threads import share_cores

if TYPE_CHECKING:
    from llafs_lib.language.asking import Asker

T = TypeVar("T")
PARAMETERS = {f.name: f for f in fields(Settings)}
_LLM = [f for f in PARAMETERS.values() if f.name.startswith("llm")]
_NUMBERS: dict[str, Any] = {"action": "extend", "type": lambda text: text.split(","), "default": [], "metavar": "NN"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns 0; 2 if the arguments or the data are at fault; 130 after Ctrl-C.

    Whatever is not 0 prints one message on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 gets an escape for what it cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except LlafsError as error:
        print(f"llafs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llafs: interrupted. What was finished is kept: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llafs",
        description="Segment a class that nobody annotated: a language model names look-alike classes, whose annotated "
        "images show a few-shot model what to look for.",
        epilog="`llafs COMMAND --help` says more, with examples. Start with: llafs tutorial",
    )
    parser.add_argument("--version", action="version", version=f"llafs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_tutorial(commands.add_parser("tutorial", help="run the notebooks in order and print the results table"))
    _add_sweep(commands.add_parser("sweep", help="run the notebooks for many folds and seeds, on one machine or many"))
    _add_ask(commands.add_parser("ask", help="ask a language model which classes look alike; keep its answers"))
    _add_segment(commands.add_parser("segment", help="find a class in an image with a finished run"))
    _add_refresh(commands.add_parser("refresh", help="execute the committed notebooks in place (for maintainers)"))
    _add_stamp(commands.add_parser("stamp", help="write into the notebooks where Colab gets the library from"))
    return parser


# --- tutorial and sweep ----------------------------------------------------------------------------------------------


def _add_tutorial(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the notebooks in order on one fold of a data set and print the results table. What is unchanged since the "
        "last run is reused. Every option is a parameter of the notebooks."
    )
    parser.epilog = _examples(
        ("tutorial", "on drawn scenes, without a download, in minutes"),
        ("tutorial --dataset coco-mini --fold 2 --shots 1", "on photographs (LLAFS_DATA says where they lie)"),
        ("tutorial --only 04,05", "these two again, whatever their state"),
    )
    _add_options(parser, PARAMETERS.values())
    parser.add_argument("--only", help="run just these notebooks, whatever their state: 04, or 01,02", **_NUMBERS)
    parser.set_defaults(command=_tutorial)


def _tutorial(arguments: argparse.Namespace) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.tutorial import run_tutorial

    settings = _made(Settings, arguments)
    results = run_tutorial(settings, arguments.only)
    if results is not None:
        run = settings.run.path
        print(f"\n{text_report(results)}\n\nreport: {run / 'report.html'}\nexecuted notebooks: {run / 'notebooks'}")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    from llafs_lib.tools.cluster import Resources

    parser.description = (
        "Run the series for every fold and training seed, each as one Ray task, and merge the results into one report. "
        "What is finished is skipped, what fails is tried again and then listed."
    )
    parser.epilog = _examples(
        ("sweep --dataset coco-mini --dry-run", "what would be run"),
        ("sweep --dataset coco-mini --folds 0-3 --seeds 0,1", "eight runs on this machine"),
        ("sweep --dataset coco-20i --budget full --gpus 1 --address HEAD:6379", "on a Ray cluster"),
        ("sweep --dataset coco-mini --only 05", "evaluate again, without training again"),
    )
    parser.add_argument("--folds", default="0-3", help="such as 0-3 or 0,2 (default: %(default)s)")
    parser.add_argument("--seeds", default="0-2", help="of the training (default: %(default)s)")
    _add_options(parser, [f for f in PARAMETERS.values() if f.name not in ("fold", "seed")])
    parser.add_argument("--only", help="run just these notebooks: 05, or 04,05", **_NUMBERS)
    parser.add_argument("--dry-run", action="store_true", help="list what would be run")
    _add_options(parser, fields(Resources))
    parser.set_defaults(command=_sweep, queries=0)


def _sweep(arguments: argparse.Namespace) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.cluster import Resources
    from llafs_lib.tools.sweep import Sweep, dry_run, merge, numbers, run_sweep

    folds, seeds = numbers(arguments.folds), numbers(arguments.seeds)
    sweep = Sweep(_made(Settings, arguments), tuple(folds), tuple(seeds), tuple(arguments.only))
    resources = _made(Resources, arguments)
    if arguments.dry_run:
        print(dry_run(sweep))
        return
    outcome = run_sweep(sweep, resources)
    print(f"{len(outcome.done)} runs done, {len(outcome.skipped)} were finished, {len(outcome.failed)} failed")
    for name, error in outcome.failed.items():
        print(f"  {name}: {error}", file=sys.stderr)
    results = merge(sweep, outcome.failed)
    print(f"\n{text_report(results)}\n\nreport: {sweep.folder / 'report.html'}")
    if outcome.failed:
        raise LlafsError(f"{len(outcome.failed)} runs failed: {', '.join(outcome.failed)}.")


# --- ask and segment -------------------------------------------------------------------------------------------------


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print which classes of a data set look like the ones asked about. Without --llm, recorded answers are "
        "replayed; with it, the model is asked through OPENAI_BASE_URL (default: OpenAI) with OPENAI_API_KEY, and its "
        "answers are kept in data/llm_cache."
    )
    parser.epilog = _examples(
        ("ask giraffe", "replays the recorded answer"),
        ("ask giraffe okapi --llm MODEL", "asks MODEL, also for a word without a recorded answer"),
        ("ask --dataset coco-20i --llm MODEL --llm-budget 0.50", "all 80 classes, for half a dollar at most"),
    )
    parser.add_argument("class_names", nargs="*", metavar="CLASS", help="default: all classes of the data set")
    _add_options(parser, [PARAMETERS["dataset"], *_LLM])
    parser.set_defaults(command=_ask, dataset="coco-20i")


def _ask(arguments: argparse.Namespace) -> None:
    from llafs_lib.classes import DATASETS
    from llafs_lib.language.asking import Unanswered
    from llafs_lib.language.cost import cost_line

    settings = _made(Settings, arguments)
    vocabulary, asker = DATASETS[settings.dataset].classes, _asker(settings)
    failure = None
    try:
        answers = asker.related_to_each(arguments.class_names or vocabulary, vocabulary)
    except Unanswered as error:
        answers, failure = error.answers, error
    print(*answers.values(), cost_line(answers.values(), asker.prices), sep="\n")
    if failure:
        raise failure


def _asker(settings: Settings) -> Asker:
    from llafs_lib.language.asking import Asker
    from llafs_lib.language.server import find_key

    key = find_key() if settings.llm and settings.llm_mode != "replay" else None
    return Asker(settings.llm or None, mode=settings.llm_mode, budget=settings.llm_budget, api_key=key)


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Segment a class that needs no annotation: related base classes stand in for it. Writes a figure of the "
        "supports, the probability and the mask. Needs a run folder, which `llafs tutorial` makes."
    )
    with_prototypes = "segment photo.jpg giraffe --run runs/coco-mini/fold0 --method prototypes -o out.png"
    parser.epilog = _examples(
        ("segment photo.jpg giraffe", "with the run that `llafs tutorial` left"),
        (with_prototypes, "with a run on photographs"),
        ("segment photo.jpg okapi --llm MODEL", "a word without a recorded answer: MODEL is asked"),
    )
    parser.add_argument("image", type=Path, help="a file that PIL can read: JPEG, PNG …")
    parser.add_argument("class_name", metavar="CLASS", help='what to look for, such as "giraffe"')
    parser.add_argument("--run", type=Path, default=Settings().run.path, help="run folder (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("segmented.png"), help="the figure to write (default: %(default)s)"
    )
    parser.add_argument(
        "--method", default="hsnet", choices=METHODS,
        help="hsnet: the trained model with a few supports; prototypes: the mean of all related ones, better on "
        "photographs (default: %(default)s)",
    )  # fmt: skip
    _add_options(parser, [PARAMETERS["shots"], *_LLM])
    parser.set_defaults(command=_segment)


def _segment(arguments: argparse.Namespace) -> None:
    settings = _made(Settings, arguments)
    if not arguments.output.parent.is_dir():
        raise LlafsError(f"the folder {arguments.output.parent} for the output does not exist.")
    share_cores()  # before the next lines load PyTorch
    from llafs_lib.data.splits import read_rgb
    from llafs_lib.pipeline import LLaFS
    from llafs_lib.plots import explanation

    image = read_rgb(arguments.image)
    model = LLaFS.from_run(arguments.run, _asker(settings), arguments.method)
    prediction = model.segment(image, arguments.class_name, shots=settings.shots)
    explanation(image, prediction).savefig(arguments.output, dpi=110, bbox_inches="tight")
    print(f"{prediction.related}\n{prediction}\nwritten: {arguments.output}")


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


# --- options ---------------------------------------------------------------------------------------------------------


def _add_options(parser: argparse.ArgumentParser, parameters: Iterable[Field]) -> None:
    """An option for each of these fields, as `settings.parameter` declares them, under their groups' headings."""
    groups: dict[str, Any] = {}
    for declared in parameters:
        title, about, default = declared.metadata["group"], declared.metadata["help"], declared.default
        is_switch = isinstance(default, bool)
        shown = ("yes" if default else "no") if is_switch else "%(default)s"
        groups[title] = groups.get(title) or parser.add_argument_group(title)
        groups[title].add_argument(
            f"--{declared.name.replace('_', '-')}",
            default=default,
            type=_yes_or_no if is_switch else type(default),
            metavar="yes|no" if is_switch else None,
            help=about if default == "" else f"{about} (default: {shown})",
        )


def _made(kind: type[T], arguments: argparse.Namespace) -> T:
    """A `Settings` or `Resources` of the options that the command has."""
    given = vars(arguments)
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"say yes or no, not {text!r}")
    return text == "yes"


def _examples(*commands: tuple[str, str]) -> str:
    return "examples:\n" + "\n".join(f"  llafs {command}\n      {what}" for command, what in commands)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that suggests the right word."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **given})

    def error(self, message: str):
        raise LlafsError(f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{self.prog} --help`.")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        arguments, left = super().parse_known_args(args, namespace)
        if left:
            name = left[0].partition("=")[0]
            hint = did_you_mean(name, self._option_string_actions) if name.startswith("-") else ""
            self.error(f"{name!r} is unknown to `{self.prog}`.{hint}")
        return arguments, left

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, unknown(value, action.choices))


class _Help(argparse.HelpFormatter):
    """Breaks no word such as coco-20i in two, and leaves a text of several lines (the examples) as it is."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)
