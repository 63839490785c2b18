"""Shares of GPUs, of their memory, and of CPU threads under pytest-xdist: by environment and a torch.cuda made up.

Oracle: shares written down by hand. No GPU is needed.
"""

from __future__ import annotations

import os
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from pytest_bertology.plugin import gpu_shares
from pytest_bertology.plugin.gpu_shares import Shares, shares, take, visible_devices, workers_asked

MIG = "MIG-8a5a3ad6-1b2c-5f3b-9d7e-000000000001"
GPU = "GPU-6a96bd8f-df46-36d7-7a9d-000000000002"


def worker(number, count, **more):
    return {"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(count), **more}


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(gpu_shares, "available_cores", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process, which is no worker of ours


@pytest.mark.parametrize(
    ("listed", "devices"),
    [
        ("0,1,2", ("0", "1", "2")),
        (" 3 , 1 ", ("3", "1")),
        (f"{MIG},{GPU}", (MIG, GPU)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
    ],
)
def test_the_callers_devices_are_read_as_cuda_reads_them(listed, devices):
    assert visible_devices({"CUDA_VISIBLE_DEVICES": listed}) == devices


def test_without_a_list_devices_are_counted_by_their_files(tmp_path):
    for name in ("nvidia0", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()

    assert visible_devices({}, tmp_path) == ("0", "2", "10")
    assert visible_devices({}, tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("listed", "workers", "expected"),
    [
        ("4,5", 4, {"4": 2, "5": 2}),
        ("4,5", 3, {"4": 2, "5": 1}),
        ("0,1,2,3", 2, {"0": 1, "1": 1}),
        (MIG, 3, {MIG: 3}),
    ],
)
def test_workers_take_turns_at_the_devices(listed, workers, expected):
    taken = []
    for number in range(workers):
        environment = worker(number, workers, CUDA_VISIBLE_DEVICES=listed)
        found = take(environment)
        taken.append(environment["CUDA_VISIBLE_DEVICES"])
        assert found.most(number) == expected[taken[-1]]

    assert Counter(taken) == expected


@pytest.mark.parametrize("listed", ["", "-1"])
def test_no_gpu_stays_no_gpu(listed):
    environment = worker(1, 2, CUDA_VISIBLE_DEVICES=listed)

    take(environment)

    assert environment["CUDA_VISIBLE_DEVICES"] == listed


def test_a_device_that_was_asked_for_by_number_is_seen_by_all(monkeypatch):
    environment = worker(1, 2, CUDA_VISIBLE_DEVICES="0,1")

    found = take(environment, "cuda:1")

    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found.most(1) == 2


def test_a_worker_that_replaces_another_has_a_device_too():
    environment = worker(5, 2, CUDA_VISIBLE_DEVICES="0,1")

    assert take(environment).most(5) == 1
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_threads_are_divided_where_nobody_chose():
    environment = worker(0, 3)

    take(environment)

    assert environment["OMP_NUM_THREADS"] == "2"
    assert shares(16, {}).threads == 1


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_threads_that_somebody_chose_are_left_alone(name):
    environment = worker(0, 2, CUDA_VISIBLE_DEVICES="", **{name: "5"})
    before = dict(environment)

    take(environment)

    assert environment == before


@pytest.mark.parametrize("environment", [{}, worker(0, 1), {"PYTEST_XDIST_WORKER": "master"}])
def test_only_one_of_several_workers_changes_its_environment(environment):
    before = dict(environment)

    assert take(environment) is None
    assert environment == before


def test_taken_again_it_is_the_same():
    environment = worker(1, 2, CUDA_VISIBLE_DEVICES="0,1")
    take(environment)
    before = dict(environment)

    take(environment)

    assert environment == before


def test_workers_are_counted_as_xdist_writes_them():
    assert workers_asked(["popen", "popen"]) == 2
    assert workers_asked(["3*popen//python=python3", "ssh=far"]) == 3
    assert workers_asked([]) == 0


@pytest.mark.parametrize(
    ("found", "fraction", "expected"),
    [
        (Shares(2, (), None, 8, 4), None, ["bertology threads: 4 for each worker (8 cores for 2 workers)"]),
        (
            Shares(3, ("0", "1"), None, 1, 1),
            None,
            [
                "bertology GPUs: 0 for gw0 gw2, 1 for gw1; 1/2 of its memory for each",
                "bertology threads: 1 for each worker (1 core for 3 workers)",
            ],
        ),
        (Shares(2, ("0", "1"), None, 8, 4), None, ["bertology GPUs: 0 for gw0, 1 for gw1"]),
        (Shares(2, (), "cuda:1", 8, 4), 0.25, ["bertology GPUs: cuda:1 for all workers; 0.25 of its memory for each"]),
    ],
)
def test_the_header_says_what_each_worker_takes(found, fraction, expected):
    assert found.lines(fraction)[: len(expected)] == expected


class Cuda:
    """A torch.cuda of a device of 64 GiB."""

    def __init__(self, monkeypatch, available=True):
        self.limits = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        properties = SimpleNamespace(total_memory=64 * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
        monkeypatch.setattr(
            torch.cuda,
            "set_per_process_memory_fraction",
            lambda fraction, number: self.limits.append((fraction, number)),
        )


def limited(workers, device, asked=None):
    config = SimpleNamespace(stash=pytest.Stash())
    config.stash[gpu_shares._key] = workers
    gpu_shares.limit_memory(config, SimpleNamespace(value=lambda name: asked), device)


@pytest.mark.parametrize(
    ("workers", "device", "asked", "expected"),
    [
        (2, "auto", None, [(0.5 - 1 / 128, 0)]),
        (4, "cuda", None, [(0.25 - 1 / 128, 0)]),
        (4, "cuda:1", None, [(0.25 - 1 / 128, 1)]),
        (1, "auto", None, []),
        (1, "auto", "0.3", [(0.3, 0)]),
        (4, "auto", "0.2", [(0.2, 0)]),
        (4, "cpu", None, []),
        (4, "mps", "0.5", []),
    ],
)
def test_each_worker_takes_its_share_of_the_memory(monkeypatch, workers, device, asked, expected):
    cuda = Cuda(monkeypatch)

    limited(workers, device, asked)

    assert cuda.limits == expected


def test_without_cuda_no_memory_is_limited(monkeypatch):
    cuda = Cuda(monkeypatch, available=False)

    limited(2, "auto")

    assert cuda.limits == []


SUITE = """
    import os
    import pytest

    @pytest.mark.parametrize("part", range(4))
    def test_environment(part, worker_id):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
        print("seen", worker_id, *seen)
        assert seen == ({"gw0": "5", "gw1": "7"}[worker_id], os.environ["EXPECTED"])
"""
CONFTEST = """
    import os
    import sys

    assert "torch" not in sys.modules
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert os.environ["CUDA_VISIBLE_DEVICES"] in ("5", "7")
    else:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7"
"""


def test_workers_have_their_shares_before_conftests_are_loaded(suite, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("EXPECTED", str(max(1, cores // 2)))

    result = suite.apart(SUITE, "-n2", "--dist=load", conftest=CONFTEST)

    result.assert_outcomes(passed=4)
    of = f"{cores} core{'s' if cores != 1 else ''} for 2 workers"
    assert "bertology GPUs: 5 for gw0, 7 for gw1" in result.outlines
    assert f"bertology threads: {max(1, cores // 2)} for each worker ({of})" in result.outlines


def test_a_share_of_memory_that_is_none_is_refused(suite):
    told = suite.refused("", "--bertology-gpu-memory=2")

    assert "--bertology-gpu-memory: '2' is not valid; expected a number above 0 and up to 1" in told
