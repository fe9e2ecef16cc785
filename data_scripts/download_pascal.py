"""Download PASCAL VOC 2012 and SBD into ROOT/pascal/{VOCdevkit,benchmark_RELEASE}; cut off, it goes on from there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from llafs_lib.data import official
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from llafs_lib.data import official
from llafs_lib.data.folds import data_root

EPILOG = """\
examples:
  python data_scripts/download_pascal.py                 all that the data set pascal-5i needs
  python data_scripts/download_pascal.py --parts voc --voc-mirror http://127.0.0.1:8000

Of VOC 2012 the images, the class masks and the segmentation lists are unpacked, of SBD the class masks and the lists:
its images are among VOC's. What is already there, unpacked by hand or here, is not downloaded again."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=("voc", "sbd"), default=["voc", "sbd"], help="(default: both)")
    add("--root", type=Path, default=data_root(), metavar="FOLDER",
        help="folder that holds pascal/ (default: LLAFS_DATA, or data)")  # fmt: skip
    add("--voc-mirror", metavar="URL", help=f"folder that holds {official.VOC_ARCHIVE[0]} on another server")
    add("--sbd-mirror", metavar="URL", help=f"folder that holds {official.SBD_ARCHIVE[0]} on another server")
    add("--keep-archives", action="store_true", help="do not delete an archive once it is unpacked")
    add("--workers", type=official.count, default=2, metavar="N", help="archives at once (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Download what is missing and say where it lies; returns the exit status, 1 if something is still missing."""
    options = parse_arguments(arguments)
    return official.run_script("download_pascal", lambda: download(options))


def download(options: argparse.Namespace) -> None:
    """Download what is missing of what the options name, and say where it lies.

    Raises:
        DownloadError: it could not be had.
    """
    folder = options.root / "pascal"
    make = {"voc": (official.voc_part, options.voc_mirror), "sbd": (official.sbd_part, options.sbd_mirror)}
    parts = [part(mirror) for name, (part, mirror) in make.items() if name in options.parts]
    if not official.complete(parts, folder, keep_archives=options.keep_archives, workers=options.workers):
        print("everything is there already, nothing to do")
    for part in parts:
        for pattern, n_files in part.holds.items():
            print(f"{folder / pattern}" + (f": {n_files:,} files" if n_files > 1 else ""))
    here = "" if options.root == data_root() else f"LLAFS_DATA={options.root} "
    print(f"next: {here}llafs tutorial --dataset pascal-5i")


if __name__ == "__main__":
    sys.exit(main())
