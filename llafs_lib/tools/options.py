"""What the subcommands of `llafs` share: options of declared parameters, errors in one line, help with examples."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from llafs_lib.classes import did_you_mean
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings, unknown

if TYPE_CHECKING:
    from llafs_lib.language.asking import Asker

T = TypeVar("T")
PARAMETERS = {f.name: f for f in fields(Settings)}
LLM = [f for f in PARAMETERS.values() if f.name.startswith("llm")]


def add_options(parser: argparse.ArgumentParser, parameters: Iterable[Field]) -> None:
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


def add_supports(group: Any, run_default: str = "") -> None:
    """Options that say where supports come from: annotations and the place of their bank, or a bank or run folder."""
    group.add_argument("--supports", metavar="FILE", help="a COCO file of your annotated images, or a folder of masks")
    group.add_argument("--bank", metavar="DIR", help="where their bank is kept (default: beside the file)")
    group.add_argument("--run", metavar="DIR", help=f"a bank or run folder{run_default}")


def check_supports(arguments: argparse.Namespace, *needing_a_file: str) -> None:
    """Refuse options that do not go together; `needing_a_file` go with --supports only.

    Raises:
        LlafsError: names two of them.
    """
    for other in ("run", "method"):
        if arguments.supports and getattr(arguments, other, None):
            raise LlafsError(f"--supports and --{other} do not go together: supports come from the file or from a run.")
    for option in needing_a_file:
        if getattr(arguments, option) not in (None, "", "auto") and not arguments.supports:
            raise LlafsError(f"--{option} goes with --supports, which names the COCO file.")


def made(kind: type[T], arguments: argparse.Namespace, *without: str) -> T:
    """A `Settings` or `Resources` of the options that the command has, but for some."""
    given = {name: value for name, value in vars(arguments).items() if name not in without}
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})


def asker_of(settings: Settings) -> Asker:
    """Who answers which classes look alike, as the options say."""
    from llafs_lib.language.asking import Asker
    from llafs_lib.language.server import find_key

    key = find_key() if settings.llm and settings.llm_mode != "replay" else None
    return Asker(settings.llm or None, mode=settings.llm_mode, budget=settings.llm_budget, api_key=key)


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"say yes or no, not {text!r}")
    return text == "yes"


def examples(*commands: tuple[str, str]) -> str:
    return "examples:\n" + "\n".join(f"  llafs {command}\n      {what}" for command, what in commands)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that suggests the right word."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **given})

    def error(self, message: str):
        message = message if len(message) <= 200 else f"{message[:120]}…{message[-60:]}"
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
