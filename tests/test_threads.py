"""Threads follow the machine, unless the user says otherwise."""

import os

import pytest
import torch

from llafs_lib import threads as module
from llafs_lib.threads import share_cores, threads, threads_in_use

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture
def machine(monkeypatch):
    """(cores, variables): a machine with so many cores, and with these variables set by the user."""

    def make(cores, **variables):
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        for name in VARIABLES:
            monkeypatch.setenv(name, variables.get(name, ""))
            if name not in variables:
                monkeypatch.delenv(name)

    return make


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 4)])
def test_half_the_cores(machine, cores, expected):
    machine(cores)
    assert threads() == expected


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 4), ("many", 4)])
def test_the_user_decides(machine, given, expected):
    machine(8, OMP_NUM_THREADS=given)
    assert threads() == expected


def test_threads_that_wait_sleep(machine):
    machine(8)
    share_cores()
    assert [os.environ[name] for name in VARIABLES] == ["4", "PASSIVE", "1000"]


def test_a_wait_policy_of_the_user_stays(machine):
    machine(8, OMP_WAIT_POLICY="ACTIVE")
    share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ


def test_threads_in_use():
    assert threads_in_use() == torch.get_num_threads()
