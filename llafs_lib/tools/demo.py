"""`llafs demo`: the first mask, seconds after the installation, with a bank of drawn scenes that the package holds."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import webbrowser
import zipfile
from collections.abc import Iterator
from pathlib import Path

from llafs_lib.artifacts import replacing
from llafs_lib.errors import LlafsError, why
from llafs_lib.threads import share_cores
from llafs_lib.tools.options import examples

ARCHIVE = Path(__file__).with_name("demo.zip")  # data_scripts/make_demo.py makes it
BANK, QUERY = "bank", "query.jpg"  # in it
WORD = "giraffe"  # no image of the bank shows one
FIGURE = "llafs-demo.png"
NEXT = """\
next, with annotated images of your own and a word that is not among their classes:
  llafs segment YOUR.jpg WORD --supports annotations.json --images images/ --related LOOKALIKE,LOOKALIKE
or in a browser, with this bank:
  llafs app"""


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Find a {WORD} in a drawn scene with a small bank that comes with the package and in which no {WORD} is "
        "annotated. Writes the whole chain as one image: the word, the look-alikes, the supports and the mask."
    )
    parser.epilog = examples(
        ("demo", "in seconds, without a download"), ("demo -o chain.png --no-open", "just the file")
    )
    parser.add_argument("-o", "--output", type=Path, help=f"the image to write (default: {FIGURE})")
    parser.add_argument("--no-open", action="store_true", help="do not open the image, even where there is a desktop")
    parser.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    output = arguments.output or _default_output()
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise LlafsError(f"-o {output}: the name of an image must end in .png, .jpg, .pdf or .svg.")
    share_cores()  # before the next lines load PyTorch
    from llafs_lib.pipeline import LLaFS
    from llafs_lib.plots import explanation

    with unpacked() as folder:
        model = LLaFS.from_run(folder / BANK)
        found = model.segment(folder / QUERY, WORD)
        try:
            with replacing(output) as partial:
                explanation(found.image, found).savefig(partial, dpi=240, format=output.suffix[1:].lower())
        except OSError as error:
            raise LlafsError(f"{output} cannot be written ({why(error)}): name another place with -o.") from error
    print(
        f"{found.related}\n{found}\nexpected of a word that nobody annotated, in this bank: {model.expected.novel}\n"
        f"written: {output}\n\n{NEXT}"
    )
    if has_desktop() and not arguments.no_open:
        webbrowser.open(output.resolve().as_uri())


def _default_output() -> Path:
    """In the current folder, else in the one for temporary files."""
    return Path(FIGURE) if os.access(".", os.W_OK) else Path(tempfile.gettempdir()) / FIGURE


def has_desktop() -> bool:
    """Whether a window can be opened. A browser in the terminal does not count."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def unpacked() -> Iterator[Path]:
    """A temporary folder with the demo's bank (`BANK`) and query image (`QUERY`), which may be changed."""
    # Windows removes no file that is still mapped into memory, as the bank is: it stays until the system cleans up.
    with tempfile.TemporaryDirectory(prefix="llafs-demo-", ignore_cleanup_errors=True) as folder:
        with zipfile.ZipFile(ARCHIVE) as zipped:
            zipped.extractall(folder)
        yield Path(folder)
