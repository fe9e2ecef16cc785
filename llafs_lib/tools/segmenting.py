"""`llafs segment`: classes in images of one's own, with supports of one's own, a bank or a run."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llafs_lib.classes import did_you_mean, normalise, split_names
from llafs_lib.errors import LlafsError
from llafs_lib.language.prompts import check_class_name
from llafs_lib.outputs import FORMATS, Output, plan_output, safe_name
from llafs_lib.records import Prediction, Predictions
from llafs_lib.settings import METHODS, Settings
from llafs_lib.threads import share_cores
from llafs_lib.tools.options import LLM, PARAMETERS, add_options, add_supports, asker_of, check_supports, examples, made

if TYPE_CHECKING:
    from llafs_lib.language.asking import Asker
    from llafs_lib.pipeline import LLaFS

RANKED = 10  # lines of the ranking
REASONS = 20  # failed images that are listed


def add_segment(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Find classes in images and write masks of the images' own size. A class without annotations is found by "
        "annotated ones that look like it. The supports are annotated images of your own (--supports), a bank that "
        "`llafs bank` made, or a run folder of `llafs tutorial` (--run). Exit status: 0, 1 if some images failed, 2 if "
        "nothing could be done."
    )
    own = "--supports annotations.json --images images/"
    parser.epilog = examples(
        (f"segment photo.jpg okapi {own} --related zebra=.9,horse -o okapi.png", "one mask, 0 and 255"),
        (f'segment "photos/*.jpg" okapi,lion {own} --llm MODEL -o masks/', "a mask of each image and class"),
        ("segment photos/ okapi --run okapi-bank/ --llm MODEL -o found.json", "a bank; one COCO file"),
        ("segment photo.jpg giraffe --format figure", "the whole chain, with the run that `llafs tutorial` left"),
    )
    parser.add_argument("photos", metavar="IMAGE", nargs="+", help='files, folders or patterns such as "photos/*.jpg"')
    parser.add_argument(
        "classes", metavar="CLASS", help="what to look for: okapi or okapi,lion; a name with a comma in double quotes"
    )
    group = parser.add_argument_group("supports")
    add_supports(group, f" (default: {Settings().run.path.as_posix()})")
    group.add_argument(
        "--method", choices=METHODS,
        help="of a run folder: hsnet, the trained model with a few supports, or prototypes, the mean of all related "
        "ones, better on photographs (default: hsnet)",
    )  # fmt: skip
    parser.add_argument(
        "--related", metavar="CLASSES",
        help="annotated classes that look like the one looked for, in place of a question to a model: zebra,horse or "
        "zebra=.9,horse=.6",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", help="a file, or a folder (default: a name made of the image's and the class's)"
    )
    parser.add_argument(
        "--format", choices=FORMATS,
        help="mask, labelmap (PNG of class numbers), overlay, sheet (one image of all), figure (the whole chain), coco "
        "or yolo (default: by the ending of -o: .png mask, .jpg overlay, .json coco)",
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=float, metavar="X", help="write an empty mask where the confidence is lower"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each result")
    add_options(parser, [*(PARAMETERS[name] for name in ("images", "shots", "backbone")), *LLM])
    parser.set_defaults(command=_segment)


def _segment(arguments: argparse.Namespace) -> int:
    names = _class_names(arguments)
    _check_together(arguments)
    settings = made(Settings, arguments, "images", "backbone")  # these two are for annotated images of one's own
    with contextlib.ExitStack() as stack:
        out = sys.stdout
        if arguments.json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # nothing but results on stdout
        images = find_images(arguments.photos)
        output = _plan(arguments, images, names)
        asker = asker_of(settings)
        share_cores()  # before the next lines load PyTorch
        model = _open(arguments, asker)
        found = _found(model, arguments, images, names, settings.shots)
        report = _Report(model, output, images, out if arguments.json else None)
        _write_all(found, output, images, report)
        return report.finish()


def _class_names(arguments: argparse.Namespace) -> list[str]:
    given = arguments.classes
    if os.path.exists(given) and (os.path.isfile(given) or Path(given).name != given):  # a folder may be called okapi
        raise LlafsError(
            f"{given} is a file or folder, but the last word names the class, as in `llafs segment {given} okapi`."
        )
    known: dict[str, str] = {}
    for name in split_names(given):
        known.setdefault(normalise(name), name)
    names = list(known.values())  # each once
    if not names:
        raise LlafsError("no class is named: the last word says what to look for, such as okapi or okapi,lion.")
    for name in names:
        check_class_name(name)
    if arguments.related and len(names) > 1:
        raise LlafsError("--related goes with one class: ask for one after the other, or let a model answer (--llm).")
    return names


def _check_together(arguments: argparse.Namespace) -> None:
    check_supports(arguments, "images", "bank", "backbone")
    if arguments.min_confidence is not None and not math.isfinite(arguments.min_confidence):
        raise LlafsError(f"--min-confidence must be a number, not {arguments.min_confidence}.")


def find_images(words: Sequence[str]) -> list[str]:
    """The images that files, folders and patterns stand for, each once. Named files are only looked at when read.

    Raises:
        LlafsError: nothing is there, or no image is.
    """
    from llafs_lib.data.images import find_images as look

    found: dict[str, str] = {}
    for word in words:
        for path in [word] if os.path.isfile(word) else look(word):
            found.setdefault(os.path.realpath(path), str(path))
    return list(found.values())


def _plan(arguments: argparse.Namespace, images: Sequence[str], names: Sequence[str]) -> Output:
    """Where the results go; without -o, into the current folder."""
    path = arguments.output
    if path is None and len(images) == len(names) == 1:
        ending = FORMATS[arguments.format or "mask"][0]
        path = f"{safe_name(Path(images[0]).stem)}-{safe_name(names[0])}{ending}"
    output = plan_output(path or "segmented/", arguments.format, images, names, True, [arguments.supports or ""])
    _check_folder(output.path if output.is_folder else output.path.parent, output, arguments)
    return output


def _check_folder(folder: Path, output: Output, arguments: argparse.Namespace) -> None:
    """Refuse a folder where results would harm a bank, or be taken for images by the next call."""
    where = folder.resolve()
    if bank := next((p for p in (where, *where.parents) if (p / "support_bank").is_dir()), None):
        raise LlafsError(f"{folder} belongs to the bank or run {bank.name}: choose another folder for the results.")
    own = arguments.supports and (arguments.images or Path(arguments.supports).parent / "images")
    if own and output.is_folder and Path(own).resolve() == where:
        raise LlafsError(f"{folder} holds the annotated images: choose another folder for the results.")
    makes_images = FORMATS[output.format][0] in (".png", ".jpg")
    if makes_images and any(os.path.isdir(p) and Path(p).resolve() == where for p in arguments.photos):
        raise LlafsError(
            f"{folder} is the folder of the images, and the results would be taken for images next time: choose "
            "another folder for them."
        )


def _open(arguments: argparse.Namespace, asker: Asker) -> LLaFS:
    from llafs_lib.pipeline import LLaFS

    if not arguments.supports:
        return LLaFS.from_run(arguments.run or Settings().run.path, asker, arguments.method or "hsnet")
    if arguments.related:  # looked at before a bank is built
        from llafs_lib.data.own import open_own
        from llafs_lib.language.relations import given

        given(arguments.classes, arguments.related, open_own(arguments.supports, arguments.images or None).classes)
    where = {"images": arguments.images or None, "bank": arguments.bank, "backbone": arguments.backbone}
    return LLaFS.from_coco(arguments.supports, **where, llm=asker)


def _found(
    model: LLaFS, arguments: argparse.Namespace, images: Sequence[str], names: Sequence[str], shots: int
) -> Iterable[Prediction | Predictions | LlafsError]:
    from llafs_lib.language.replay import ReplayMiss

    asked, least = names if len(names) > 1 else names[0], arguments.min_confidence
    try:
        return model.segment_all(images, asked, shots, arguments.related, min_confidence=least)
    except ReplayMiss as miss:
        hint = did_you_mean(miss.class_name, {*model.vocabulary, *model.bank.classes})
        alone = "Ask for it alone and name" if len(names) > 1 else "Name"  # --related goes with one class
        raise LlafsError(
            f"{miss.class_name!r} is not annotated here, and no recorded answer says what looks like it.{hint} {alone} "
            f"annotated look-alikes (--related {','.join(model.bank.classes[:2])}) or a model to ask (--llm MODEL)."
        ) from None


def _write_all(
    found: Iterable[Prediction | Predictions | LlafsError], output: Output, images: Sequence[str], report: _Report
) -> None:
    from llafs_lib.plots import TRUTH, explanation, image_grid
    from llafs_lib.writing import Writer

    def draw(shown: Any):
        if isinstance(shown, Prediction):
            return explanation(shown.image, shown)
        return image_grid([(image, None, TRUTH, title) for image, title in shown], min(len(shown), 5))

    with Writer(output, draw) as writer:
        for number, result in enumerate(found):
            if isinstance(result, LlafsError):
                report.failed(images[number], result)
            else:
                report.done(images[number], result, writer.write(number, result))


class _Report:
    """What is said about the results: a line of JSON for each, or a summary at the end.

    Args:
        out: where the lines go; None prints the summary.
    """

    def __init__(self, model: LLaFS, output: Output, images: Sequence[str], out: TextIO | None):
        self.model, self.output, self.images, self.out = model, output, images, out
        self.failures: list[str] = []
        self.last: Prediction | Predictions | None = None
        self.files: Sequence[Path] = ()  # of the last result
        self.ranked: dict[str, list[tuple[float, str]]] = {name: [] for name in output.classes}

    def failed(self, image: str, error: LlafsError) -> None:
        self.failures.append(str(error) if image in str(error) else f"{image}: {error}")
        self._line({"image": image, "error": str(error)})

    def done(self, image: str, result: Prediction | Predictions, files: Sequence[Path]) -> None:
        found = result.found if isinstance(result, Predictions) else (result,)
        for i, prediction in enumerate(found):
            sure, related = prediction.confidence, prediction.related
            self._line(
                {
                    "image": image,
                    "class": prediction.class_name,
                    "file": str(files[min(i, len(files) - 1)]),
                    "share": round(float(prediction.mask.mean()), 6),
                    "confidence": None if sure is None else float(sure),
                    "related": related.scores if related else {},
                    "notes": list(prediction.notes),
                }
            )
            if sure is not None:
                best = self.ranked[self.output.classes[i]]
                best.append((float(sure), image))
                best.sort(key=lambda pair: -pair[0])
                del best[RANKED:]
        self.last, self.files = result, files

    def _line(self, line: dict[str, Any]) -> None:
        if self.out is not None:
            print(json.dumps(line, ensure_ascii=False), file=self.out, flush=True)

    def finish(self) -> int:
        """Print the summary; return the exit status."""
        if self.out is None and self.last is not None:
            print("\n".join(self._summary()))
        if self.failures and len(self.images) == 1:
            print(f"llafs: {self.failures[0]}", file=sys.stderr)
        elif self.failures:
            print(f"llafs: {len(self.failures)} of {len(self.images)} images failed:", file=sys.stderr)
            for reason in self.failures[:REASONS]:
                print(f"  {reason}", file=sys.stderr)
            if len(self.failures) > REASONS:
                print(f"  … and {len(self.failures) - REASONS} more, all of which --json prints", file=sys.stderr)
        return 0 if not self.failures else 1 if self.last else 2

    def _summary(self) -> list[str]:
        found = self.last.found if isinstance(self.last, Predictions) else (self.last,)
        lines = [str(p.related) for p in found if p.related]
        if len(self.images) == 1:
            lines += map(str, found)
        else:
            share = max(1, RANKED // len(found))
            for p, (name, best) in zip(found, self.ranked.items(), strict=True):
                if best:
                    lines.append(f"{name}, the images that most likely show it first{self._expected(p, 'auc')}:")
                    lines += [f"  {sure:6.3f}  {image}" for sure, image in best[:share]]
        lines += [f"{p.class_name}: {line}" for p in found if (line := self._expected(p, "iou"))]
        return [*lines, f"written: {self._written()}"]

    def _expected(self, prediction: Prediction, what: str) -> str:
        """What the bank's own classes say about a mask or a ranking, if they were measured."""
        if self.model.expected is None or prediction.related is None:
            return ""
        expected = self.model.expected.of(prediction.related)
        value = getattr(expected, what)
        if value is None:
            return ""
        if what == "auc":
            return f" (expected AUC: {value:.2f}; 1 is perfect, 0.5 is a coin)"
        return f"expected IoU: {value:.0f}, measured on {expected.classes} of the annotated classes"

    def _written(self) -> str:
        done, output = len(self.images) - len(self.failures), self.output
        if len(self.images) == 1 or not output.is_folder or output.format in ("coco", "sheet"):
            return ", ".join(map(str, self.files))
        return f"{done} image{'s' * (done != 1)} as {output.format} in {output.path}"
