"""Trained models of finished runs, asked about other images: `llafs sweep --trained RUNS --runs OTHER`.

A model is made of its classes and of the images that it was trained on. It may be asked about any image that it has not
seen, as long as the same classes are novel. So the models are copied, with a manifest that says which data they are of.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from llafs_lib.artifacts import RunFolder
from llafs_lib.data.folds import load_fold
from llafs_lib.errors import LlafsError
from llafs_lib.records import Fold
from llafs_lib.settings import Settings

TRAINING = ("02_backbone_training", "02b_other_segmenters")  # the notebooks that need not run then


def take_models(names: Sequence[str], settings: Settings, source: RunFolder) -> None:
    """Copy trained models from a run into that of `settings`, whose `folds.json` may be of other images.

    The manifest of a copy says under "data" which data it is asked about, and under "trained on" which it has seen.

    Args:
        names: the artifacts.

    Raises:
        LlafsError: a model is missing, or was made with other settings or classes, or has seen an image that it would
            be asked about.
    """
    run = settings.run
    if source.path.resolve() == run.path.resolve():
        raise LlafsError(f"{source.path} is the run itself: name another folder for the new one, such as --runs other.")
    here, there = map(load_fold, (run, source))
    for group in ("base", "novel", "validation"):
        if getattr(here, group) != getattr(there, group):
            raise LlafsError(f"{source.path} has other {group} classes than {run.path}: its models do not fit.")
    _check_unseen(here, there, source)
    for name in names:
        made = source.require(name, **settings.model)
        of_source = source.parameters(name)
        data = {"data": here.digest, "trained on": of_source.get("trained on", of_source["data"])}
        with run.writing(name, of_source | data) as path:
            shutil.copyfile(made, path)


def _check_unseen(here: Fold, there: Fold, source: RunFolder) -> None:
    """COCO and PASCAL give each photograph a number of its own. Drawn scenes are numbered anew by every drawing."""
    seen = {i for c in there.training for i in there.train_images[c]}
    asked = {i for c in here.novel for i in here.test_images[c]}
    if here.dataset != "toy" and seen & asked:
        raise LlafsError(
            f"the models of {source.path} were trained on {len(seen & asked)} of the images that they would be asked "
            f"about, such as {min(seen & asked)}: leave these out of the validation images."
        )
