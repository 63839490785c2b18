"""Under pytest-xdist each worker takes its share of the machine: GPUs, their memory, and threads of the CPU.

A worker sets its own environment before torch reads it, which it does when it is imported, and CUDA when it is first
used. The controller, and a session without workers, are left as they are.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.plugin.options import BY_NAME, Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Each of them says how many threads to use: where one is set, somebody chose."""
_DEVICE = re.compile(r"\d+|(GPU|MIG)-.+")
_RESERVED = 512 * 2**20
"""Bytes of a device that the CUDA context of a worker takes beside what torch hands out."""


@dataclass(frozen=True)
class Shares:
    """How a machine is shared among workers."""

    workers: int
    devices: tuple[str, ...]
    """GPUs as CUDA_VISIBLE_DEVICES names them, of which each worker is to see one; none where there are none."""
    named: str | None
    """The one GPU that all workers were told to use (`cuda:1`): then each sees all of them."""
    cores: int
    threads: int | None
    """Threads of each worker; None where somebody chose."""

    def device(self, worker: int) -> str | None:
        """The GPU of a worker, by its number: they take turns."""
        return self.devices[worker % len(self.devices)] if self.devices else None

    def on(self, device: str) -> tuple[int, ...]:
        """The workers that share a GPU."""
        return tuple(worker for worker in range(self.workers) if self.device(worker) == device)

    def most(self, worker: int) -> int:
        """How many workers share the GPU of this one, itself among them."""
        if self.named is not None:
            return self.workers
        device = self.device(worker)
        return 1 if device is None else max(1, len(self.on(device)))

    def lines(self, fraction: float | None) -> list[str]:
        """Lines for the header of the session."""
        found = []
        used = {device: self.on(device) for device in self.devices if self.on(device)}
        each = [f"{device} for {' '.join(f'gw{worker}' for worker in some)}" for device, some in used.items()]
        most = max(map(len, used.values()), default=0)
        if self.named is not None:
            each, most = [f"{self.named} for all workers"], self.workers
        if each:
            share = f"{fraction:g}" if fraction is not None else f"1/{most}" if most > 1 else ""
            found.append(f"bertology GPUs: {', '.join(each)}" + (f"; {share} of its memory for each" if share else ""))
        if self.threads is None:
            found.append(f"bertology threads: as {' and '.join(chosen(os.environ))} says")
        else:
            of = f"{self.cores} core{'s' if self.cores != 1 else ''} for {self.workers} workers"
            found.append(f"bertology threads: {self.threads} for each worker ({of})")
        return found


def shares(workers: int, environment: Mapping[str, str], device: str = "auto") -> Shares:
    """How this machine is shared among so many workers, of which models go to `device`."""
    named = device if device.startswith("cuda:") else None
    cores = available_cores()
    threads = None if chosen(environment) else max(1, cores // max(1, workers))
    shared = named is None and device in ("auto", "cuda")
    return Shares(workers, visible_devices(environment) if shared else (), named, cores, threads)


def visible_devices(environment: Mapping[str, str], nodes: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs that the caller lets this session see, by the names in CUDA_VISIBLE_DEVICES; else those that there are.

    As CUDA reads it: what is behind an invalid entry, such as -1, is not seen, and an empty list is none.
    """
    listed = environment.get(VISIBLE)
    if listed is None:
        numbers = (re.fullmatch(r"nvidia(\d+)", path.name) for path in nodes.glob("nvidia*"))
        return tuple(str(number) for number in sorted(int(found[1]) for found in numbers if found))
    return tuple(takewhile(_DEVICE.fullmatch, (entry.strip() for entry in listed.split(","))))


def chosen(environment: Mapping[str, str]) -> list[str]:
    """Variables by which somebody chose how many threads there are."""
    return [name for name in THREADS if environment.get(name)]


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_of(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The number of the xdist worker that this process is, and of how many; None for none."""
    name = re.fullmatch(r"gw(\d+)", environment.get("PYTEST_XDIST_WORKER", ""))
    count = environment.get("PYTEST_XDIST_WORKER_COUNT", "")
    return (int(name[1]), int(count)) if name and count.isdigit() else None


def take(environment: MutableMapping[str, str], device: str = "auto") -> Shares | None:
    """Take the share of the worker that this process is; None, and nothing is changed, where it is none of several.

    Taken again, as by a session within a test, it is the same: one GPU is seen, and threads look chosen.
    """
    worker = worker_of(environment)
    if worker is None or worker[1] < 2:
        return None
    number, count = worker
    found = shares(count, environment, device)
    own = found.device(number)
    if own is not None:
        environment[VISIBLE] = own
    if found.threads is not None:
        environment["OMP_NUM_THREADS"] = str(found.threads)
        if "torch" in sys.modules:  # somebody imported it before, and the variable is not read any more
            sys.modules["torch"].set_num_threads(found.threads)
    return found


_key = pytest.StashKey[int]()
"""How many workers share this one's GPU."""


def enable(config: pytest.Config) -> None:
    """Take this worker's share, before conftests are loaded or, where the plugin came later, as soon as it is there."""
    if _key not in config.stash:
        worker = worker_of(os.environ)
        found = take(os.environ, device_of(config))
        config.stash[_key] = 1 if found is None or worker is None else found.most(worker[0])


def device_of(config: pytest.Config) -> str:
    """Where models are asked to go, as far as it is known before conftests are loaded."""
    option = BY_NAME["device"]
    given = getattr(config.known_args_namespace, option.ini, None) or os.environ.get(option.variable)
    return str(given or config.getini(option.ini) or option.default)


def limit_memory(config: pytest.Config, settings: Settings, device: Any) -> None:
    """Before a model goes to CUDA: let torch hand out this process's share of the device's memory, and no more.

    The share is --bertology-gpu-memory, else one over the number of workers on the device, less what CUDA takes for
    itself. Without workers there is no limit unless it is asked for.
    """
    asked, workers, kind = settings.value("gpu_memory"), config.stash.get(_key, 1), str(device)
    if not (kind == "auto" or kind.startswith("cuda")) or (asked is None and workers < 2):
        return
    import torch

    if not torch.cuda.is_available():
        return
    number = 0 if kind == "auto" else torch.device(kind).index or 0
    if asked is not None:
        fraction = float(asked)
    else:
        total = torch.cuda.get_device_properties(number).total_memory
        fraction = max(0.01, 1.0 / workers - _RESERVED / total)
    torch.cuda.set_per_process_memory_fraction(fraction, number)


def header(config: pytest.Config, settings: Settings) -> list[str]:
    """How the machine is shared, in the header of a session with workers."""
    workers = workers_asked(config.getoption("tx", None) or ())
    if workers < 2:
        return []
    asked = settings.value("gpu_memory")
    found = shares(workers, os.environ, settings.value("device"))
    return found.lines(None if asked is None else float(asked))


def workers_asked(specs: Sequence[str]) -> int:
    """How many workers xdist is to start: `3*popen` are three; those on other machines share nothing here."""
    found = (re.fullmatch(r"(?:(\d+)\*)?(popen.*)", spec) for spec in specs)
    return sum(int(each[1] or 1) for each in found if each)
