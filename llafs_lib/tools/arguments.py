"""What the command line adds to argparse: an error is one line that suggests the right word; help keeps words whole."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence

from llafs_lib.artifacts import NOTEBOOKS, SERIES
from llafs_lib.classes import did_you_mean
from llafs_lib.errors import LlafsError


class UsageError(LlafsError):
    """A command, an option or a value that does not exist."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises `UsageError` with the closest known word, where argparse prints how it is used."""

    def __init__(self, **given) -> None:
        super().__init__(**{"formatter_class": _Help, **given})

    def error(self, message: str):
        raise UsageError(f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{self.prog} --help`.")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            hint = did_you_mean(name, self._option_string_actions) if name.startswith("-") else ""
            raise UsageError(f"{name!r} is unknown to `{self.prog}`.{hint} See `{self.prog} --help`.")
        return arguments, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, _unknown(value, action.choices))


class _Help(argparse.HelpFormatter):
    """Breaks no word such as coco-20i in two, and leaves a text of several lines (the examples) as it is."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _unknown(value: object, known: Iterable[str]) -> str:
    return f"{value!r} is unknown: choose one of {', '.join(known)}.{did_you_mean(str(value), known)}"


def notebook(text: str, names: Iterable[str] = SERIES) -> str:
    """The number of a notebook, such as "03"."""
    known = [name[:2] for name in names]
    if text not in known:
        raise argparse.ArgumentTypeError(_unknown(text, known))
    return text


def notebooks(text: str) -> list[str]:
    """Numbers of notebooks that leave something, such as "01,02"."""
    return [notebook(number, NOTEBOOKS) for number in text.split(",")]


def yes_or_no(text: str) -> bool:
    """True for "yes", False for "no"."""
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"say yes or no, not {text!r}")
    return text == "yes"


def examples(*commands: tuple[str, str]) -> str:
    """The end of a command's help: commands, and below each what it does."""
    return "examples:\n" + "\n".join(f"  llafs {command}\n      {what}" for command, what in commands)
