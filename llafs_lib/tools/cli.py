"""The command `llafs`: thin, every subcommand is one library call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llafs_lib.classes import DATASETS, did_you_mean
from llafs_lib.errors import LlafsError
from llafs_lib.threads import share_cores
from llafs_lib.tools.arguments import Parser, examples, notebook, notebooks, yes_or_no

if TYPE_CHECKING:
    from llafs_lib.language.asking import Asker
    from llafs_lib.records import RelatedClasses


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns 0; 2 if the arguments or the data are at fault, with one message on stderr."""
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except LlafsError as error:
        print(f"llafs: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llafs",
        description="Segment a class that nobody annotated: a language model names look-alike classes, whose annotated "
        "images show a few-shot model what to look for.",
        epilog="`llafs COMMAND --help` says more, with examples. Start with: llafs tutorial",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_tutorial(commands.add_parser("tutorial", help="run the notebooks in order and print the results table"))
    _add_sweep(commands.add_parser("sweep", help="run the notebooks for many folds and seeds, on one machine or many"))
    _add_ask(commands.add_parser("ask", help="ask a language model which classes look alike; keep its answers"))
    _add_segment(commands.add_parser("segment", help="find a class in an image with a finished run"))
    refresh = commands.add_parser("refresh", help="execute the committed notebooks in place (for maintainers)")
    refresh.description = "Execute the committed notebooks in place on toy, so that their outputs are current."
    refresh.add_argument(
        "--check", action="store_true", help="change nothing: say where a fresh run shows other things"
    )
    refresh.add_argument("only", nargs="*", type=notebook, metavar="NN", help="numbers such as 03 (default: all)")
    refresh.set_defaults(command=_refresh)
    _add_stamp(commands.add_parser("stamp", help="write into the notebooks where Colab gets the library from"))
    return parser


def _add_tutorial(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the notebooks in order on one fold of a data set and print the results table. What is unchanged since the "
        "last run is reused. Every option is a parameter of the notebooks."
    )
    parser.epilog = examples(
        ("tutorial", "on drawn scenes, without a download, in minutes"),
        ("tutorial --dataset coco-mini --fold 2 --shots 1", "on photographs (LLAFS_DATA says where they lie)"),
        ("tutorial --only 04,05", "these two again, whatever their state"),
    )
    data = parser.add_argument_group("data and model")
    data.add_argument("--dataset", default="toy", help=f"one of {', '.join(DATASETS)} (default: %(default)s)")
    data.add_argument("--fold", type=int, default=0, help="which quarter is novel, 0 to 3 (default: %(default)s)")
    data.add_argument("--shots", type=int, default=5, help="supports per query (default: %(default)s)")
    data.add_argument("--seed", type=int, default=0, help="of training, episodes and draws (default: %(default)s)")
    data.add_argument("--backbone", default="auto", help="small, mobilenet_v2, resnet50 … (default: by data set)")
    training = parser.add_argument_group("training (notebook 02)")
    training.add_argument("--budget", default="small", help="tiny, small or full (default: %(default)s)")
    training.add_argument(
        "--novel-in-train", default="background", metavar="HOW",
        help="novel objects in training images are background, ignore or drop (default: %(default)s)",
    )  # fmt: skip
    training.add_argument(
        "--hold-out", type=yes_or_no, default=True, metavar="yes|no",
        help="keep a few base classes out of training to choose a model on (default: yes)",
    )  # fmt: skip
    training.add_argument(
        "--compare-losses", type=yes_or_no, default=True, metavar="yes|no",
        help="run the last section of notebook 02, half of its time on toy (default: yes)",
    )  # fmt: skip
    questions = parser.add_argument_group("evaluation (notebook 05)")
    questions.add_argument("--segmenters", default="hsnet,repri,prototype", help="models to ask (default: %(default)s)")
    questions.add_argument("--queries", type=int, default=150, help="to ask at most; 0 asks all (default: %(default)s)")
    _add_llm(parser, prefix="llm-")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: %(default)s)")
    _add_only(parser, "run just these notebooks, whatever their state: 04, or 01,02; may be repeated")
    parser.set_defaults(command=_tutorial)


def _add_only(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--only", action="extend", type=notebooks, default=[], metavar="NN", help=text)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the series for every fold and training seed, each as one Ray task, and merge the results into one report. "
        "What is finished is skipped, what fails is tried again and then listed."
    )
    parser.epilog = examples(
        ("sweep --dataset coco-mini --dry-run", "what would be run, and about how long"),
        ("sweep --dataset coco-mini --folds 0-3 --seeds 0,1", "eight runs on this machine"),
        ("sweep --dataset coco-20i --budget full --gpus 1 --address HEAD:6379", "on a Ray cluster"),
        ("sweep --dataset coco-mini --only 05", "evaluate again, without training again"),
    )
    parser.add_argument("--dataset", default="toy", help=f"one of {', '.join(DATASETS)} (default: %(default)s)")
    parser.add_argument("--folds", default="0-3", help="such as 0-3 or 0,2 (default: %(default)s)")
    parser.add_argument("--seeds", default="0-2", help="of the training (default: %(default)s)")
    parser.add_argument("--segmenters", default="hsnet,repri,prototype", help="to evaluate (default: %(default)s)")
    parser.add_argument("--shots", type=int, default=5, help="supports per query, beside one (default: %(default)s)")
    parser.add_argument("--backbone", default="auto", help="as for tutorial (default: by data set)")
    parser.add_argument("--budget", default="small", help="tiny, small or full training (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=0, help="at most; 0 asks all (default: %(default)s)")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: %(default)s)")
    _add_only(parser, "run just these notebooks: 05, or 04,05; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="list what would be run, and about how long it takes")
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--address", default="auto",
        help="of a Ray cluster; auto: one that runs here, else this machine; local (default: %(default)s)",
    )  # fmt: skip
    machines.add_argument("--cpus", type=float, default=1, help="of one run, also its threads (default: %(default)s)")
    machines.add_argument("--gpus", type=float, default=0, help="of one run; 0.25: four on one (default: %(default)s)")
    machines.add_argument("--retries", type=int, default=1, help="of a run that fails (default: %(default)s)")
    parser.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.sweep import Resources, Sweep, SweepError, dry_run, merge, numbers, run_sweep
    from llafs_lib.tools.tutorial import Settings

    given = vars(arguments)
    names = ("dataset", "segmenters", "shots", "backbone", "budget", "queries", "runs")
    settings = Settings(**{name: given[name] for name in names}, compare_losses=False)
    folds, seeds = numbers(arguments.folds), numbers(arguments.seeds)
    sweep = Sweep(settings, tuple(folds), tuple(seeds), tuple(arguments.only))
    resources = Resources(arguments.address, arguments.cpus, arguments.gpus, arguments.retries)
    if arguments.dry_run:
        print(dry_run(sweep, resources.cpus))
        return
    outcome = run_sweep(sweep, resources)
    print(f"{len(outcome.done)} runs done, {len(outcome.skipped)} were finished, {len(outcome.failed)} failed")
    for name, error in outcome.failed.items():
        print(f"  {name}: {error}", file=sys.stderr)
    results = merge(sweep, outcome.failed)
    print(f"\n{text_report(results)}\n\nreport: {sweep.folder / 'report.html'}")
    if outcome.failed:
        raise SweepError(f"{len(outcome.failed)} runs failed: {', '.join(outcome.failed)}.")


def _add_llm(parser: argparse.ArgumentParser, prefix: str) -> None:
    model = parser.add_argument_group("language model")
    model.add_argument("--llm", default="", metavar="MODEL", help="the model to ask (default: replay recorded answers)")
    model.add_argument(
        f"--{prefix}mode", dest="llm_mode", default="auto", choices=["auto", "replay", "refresh"],
        help="auto: ask for what is not recorded; replay: never ask; refresh: ask anew (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        f"--{prefix}budget", dest="llm_budget", type=float, default=0.0, metavar="USD",
        help="stop before asking costs more than so many US dollars (default: no limit)",
    )  # fmt: skip


def _asker(arguments: argparse.Namespace) -> Asker:
    from llafs_lib.language.asking import Asker
    from llafs_lib.language.keys import find_key

    key = find_key() if arguments.llm and arguments.llm_mode != "replay" else None
    budget = arguments.llm_budget or None
    return Asker(arguments.llm or None, mode=arguments.llm_mode, budget=budget, api_key=key)


def _tutorial(arguments: argparse.Namespace) -> None:
    from llafs_lib.evaluation.report import text_report
    from llafs_lib.tools.tutorial import Settings, run_tutorial

    chosen = {k: v for k, v in vars(arguments).items() if k not in ("command", "only")}
    settings = Settings(**chosen)
    results = run_tutorial(settings, arguments.only)
    if results is not None:
        print(f"\n{text_report(results)}\n\nreport: {settings.run.path / 'report.html'}")


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print which classes of a data set look like the ones asked about. Without --llm, recorded answers are "
        "replayed; with it, the model is asked through OPENAI_BASE_URL (default: OpenAI) with OPENAI_API_KEY, and its "
        "answers are kept in data/llm_cache."
    )
    parser.epilog = examples(
        ("ask giraffe", "replays the recorded answer"),
        ("ask giraffe okapi --llm MODEL", "asks MODEL, also for a word without a recorded answer"),
        ("ask --dataset coco-20i --llm MODEL --budget 0.50", "all 80 classes, for half a dollar at most"),
    )
    parser.add_argument("class_names", nargs="*", metavar="CLASS", help="default: all classes of the data set")
    parser.add_argument("--dataset", default="coco-20i", help=f"one of {', '.join(DATASETS)} (default: %(default)s)")
    _add_llm(parser, prefix="")
    parser.set_defaults(command=_ask)


def _ask(arguments: argparse.Namespace) -> None:
    from llafs_lib.language.asking import Unanswered
    from llafs_lib.language.cost import cost_line

    if arguments.dataset not in DATASETS:
        hint = did_you_mean(arguments.dataset, DATASETS)
        raise LlafsError(f"dataset {arguments.dataset!r} is unknown: choose one of {', '.join(DATASETS)}.{hint}")
    vocabulary, asker = DATASETS[arguments.dataset].classes, _asker(arguments)
    try:
        answers = asker.related_to_each(arguments.class_names or vocabulary, vocabulary)
    except Unanswered as error:
        _print_answers(error.answers)
        print(cost_line(error.answers.values(), asker.prices))
        raise
    _print_answers(answers)
    print(cost_line(answers.values(), asker.prices))


def _print_answers(answers: Mapping[str, RelatedClasses]) -> None:
    for answer in answers.values():
        print(answer)


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Segment a class that needs no annotation: related base classes stand in for it. Writes a figure of the "
        "supports, the probability and the mask. Needs a run folder, which `llafs tutorial` makes."
    )
    parser.epilog = examples(
        ("segment photo.jpg giraffe", "with the run that `llafs tutorial` left"),
        (
            "segment photo.jpg giraffe --run runs/coco-mini/fold0 --method prototypes -o out.png",
            "with a run on photographs",
        ),
        ("segment photo.jpg okapi --llm MODEL", "a word without a recorded answer: MODEL is asked"),
    )
    parser.add_argument("image", type=Path, help="a file that PIL can read: JPEG, PNG …")
    parser.add_argument("class_name", metavar="CLASS", help='what to look for, such as "giraffe"')
    parser.add_argument("--run", type=Path, default=Path("runs/toy/fold0"), help="run folder (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("segmented.png"), help="the figure to write (default: %(default)s)"
    )
    parser.add_argument("--shots", type=int, default=5, help="supports to use (default: %(default)s)")
    parser.add_argument(
        "--method", default="hsnet", choices=["hsnet", "prototypes"],
        help="hsnet: the trained model with a few supports; prototypes: the mean of all related ones, better on "
        "photographs (default: %(default)s)",
    )  # fmt: skip
    _add_llm(parser, prefix="llm-")
    parser.set_defaults(command=_segment)


def _segment(arguments: argparse.Namespace) -> None:
    if not arguments.output.parent.is_dir():
        raise LlafsError(f"the folder {arguments.output.parent} for the output does not exist.")
    share_cores()  # before the next lines load PyTorch
    from llafs_lib.data.splits import read_rgb
    from llafs_lib.pipeline import LLaFS
    from llafs_lib.plots import explanation

    image = read_rgb(arguments.image)
    model = LLaFS.from_run(arguments.run, _asker(arguments), arguments.method)
    prediction = model.segment(image, arguments.class_name, shots=arguments.shots)
    explanation(image, prediction).savefig(arguments.output, dpi=110, bbox_inches="tight")
    print(f"{prediction.related}\n{prediction}\nwritten: {arguments.output}")


def _refresh(arguments: argparse.Namespace) -> None:
    from llafs_lib.tools.committed import check_committed, refresh_committed

    (check_committed if arguments.check else refresh_committed)(arguments.only)


def _add_stamp(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the repository into the setup cell of every notebook, with a badge that opens it in Colab, and into "
        "README's table of the series."
    )
    parser.add_argument("--repo", metavar="OWNER/NAME", help="on GitHub; may be left out with --check")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the files do not agree")
    parser.set_defaults(command=_stamp)


def _stamp(arguments: argparse.Namespace) -> None:
    from llafs_lib.tools.colab import check_stamps, stamp

    if arguments.check:
        print(f"all stamped for {found}" if (found := check_stamps(arguments.repo)) else "nothing is stamped")
        return
    if arguments.repo is None:
        raise LlafsError("which repository? llafs stamp --repo OWNER/NAME")
    changed = stamp(arguments.repo)
    print("\n".join(f"stamped: {path.as_posix()}" for path in changed) or "stamped already, nothing changed")


if __name__ == "__main__":
    sys.exit(main())
