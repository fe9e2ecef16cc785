"""Make the HSNet that the package comes with: the one of a finished run on `toy`, in half precision and below 6 MB."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from _common import make_parser, run

from llafs_lib.artifacts import RunFolder, replacing
from llafs_lib.vision.hsnet import TOY_HSNET, HSNet

# Convolutions over the support's plane in the layers that merge levels. At 161 px that plane is down to a single place
# there, so eight of their nine taps meet nothing but padding, and eight bits are enough for the ninth.
ON_ONE_PLACE = re.compile(r"learner\.encoder_layer(4to3|3to2)\.\d\.conv2\.weight")

EPILOG = """\
The run is the one that `llafs tutorial --only 01,02` leaves (toy, fold 0, seed 0). Rounding moved the IoU of no query
by more than 0.2, and mIoU by 0.01 (92 queries, 5 supports: 36.32 and 36.33 with LLM-chosen ones, 25.52 and 25.53 with
random ones). Another training, even the same on another processor, gives other weights and other figures: the file is
replaced together with those in notebook 00."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("make_toy_hsnet.py", __doc__, EPILOG)
    parser.add_argument("--run", type=Path, default=Path("runs/toy/fold0"), help="(default: runs/toy/fold0)")
    parser.add_argument("--out", type=Path, default=TOY_HSNET, metavar="FILE", help="(default: in llafs_lib/vision)")
    return run(parser, make, arguments)


def make(options: argparse.Namespace) -> None:
    """Read the run's model, which must be whole, and write it as 16-bit numbers, and as 8-bit ones where these do."""
    model, header = HSNet.load(RunFolder.at(options.run).require("hsnet.safetensors"))
    for name, parameter in model.half().named_parameters():
        if ON_ONE_PLACE.fullmatch(name):
            parameter.data = parameter.data.to(torch.float8_e4m3fn)
    with replacing(options.out) as partial:
        model.save(partial, size=header["size"], compared_at=header["compared_at"])
    print(f"written: {options.out}, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
