"""A support bank of twelve rows that nobody described."""

import numpy as np

from llafs_lib.retrieval.bank import SupportBank


def bank():
    names, n = ("zebra", "horse", "cow"), 4
    ids = np.arange(3 * n)
    rows = np.random.default_rng(0).random((3 * n, 5), np.float32)
    return SupportBank(names, ids, np.repeat([0, 1, 2], n), rows, rows, np.full(3 * n, 0.2))
