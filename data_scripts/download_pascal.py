"""Download PASCAL VOC 2012 and SBD into ROOT/pascal/{VOCdevkit,benchmark_RELEASE}. An interrupted run continues."""

from __future__ import annotations

import argparse
import sys

from _common import add_download_options, download, make_parser, next_step, run

from llafs_lib.data import official

EPILOG = """\
examples:
  python data_scripts/download_pascal.py                 all that the data set pascal-5i needs
  python data_scripts/download_pascal.py --parts voc --voc-mirror http://127.0.0.1:8000

Of VOC 2012 the images, the class masks and the segmentation lists are unpacked; of SBD the class masks and the lists,
because its images are among VOC's. What is already there, unpacked by hand or here, is not downloaded again."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("download_pascal.py", __doc__, EPILOG)
    parts = tuple(official.PASCAL)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="(default: both)")
    for part, archive in official.PASCAL.items():
        parser.add_argument(f"--{part}-mirror", metavar="URL", help=f"folder of another server with {archive.name}")
    add_download_options(parser, "pascal")
    return run(parser, work, arguments)


def work(options: argparse.Namespace) -> None:
    """Download what is missing of what the options name, and say where it lies.

    Raises:
        LlafsError: it could not be downloaded.
    """
    folder, mirrors = options.root / "pascal", {"voc": options.voc_mirror, "sbd": options.sbd_mirror}
    archives = [archive.at(mirrors[part]) for part, archive in official.PASCAL.items() if part in options.parts]
    download(archives, folder, options)
    print(next_step(options.root, "pascal-5i"))


if __name__ == "__main__":
    sys.exit(main())
