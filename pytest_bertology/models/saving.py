"""Write a model to a folder, whole or not at all, and read cut models back through transformers' own classes.

A cut checkpoint is an ordinary one, whose configuration is the uncut model's and holds the plan besides. Importing this
module teaches `from_pretrained` to follow it: when the model was built and before its weights are read, the plan is
applied. Without this package such a checkpoint does not fit its configuration, and transformers refuses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import PreTrainedModel

from pytest_bertology.errors import CannotSave, InvalidArgument, InvalidPlan
from pytest_bertology.models.plan import ATTRIBUTE, SEAL, PruningPlan, plan_of
from pytest_bertology.models.quiet import Quiet

_LONG_AGO = 3600.0
"""Seconds after which a save that has not ended is taken for one that was killed."""
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


# -- out ---------------------------------------------------------------------------------------------------------------


def save(model: PreTrainedModel, tokenizer: Any, folder: str | os.PathLike[str]) -> Path:
    """Write model, tokenizer and, for a cut model, plan and hashes, as a checkpoint that was read back and compared.

    Everything is written beside `folder` first and put in its place in one step: whoever looks finds the old content
    or the new. Files in an old checkpoint that are no part of it, such as a model card, are kept. Raises CannotSave.
    """
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise InvalidArgument("folder", folder, "the path of a folder")
    target = Path(folder).resolve()  # through a link, to where it points
    _check_target(target, model.config.model_type)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise CannotSave(str(target), f"its parent folder cannot be written to ({error.strerror})") from error
    try:
        beside.chmod(0o777 & ~_umask())
        with Quiet():
            _write(model, tokenizer, beside)
            _read_back(model, beside)
        _carry_over(target, beside)
        _sync(beside)
        _put_in_place(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Path(folder)


def _sweep(target: Path) -> None:
    """Remove what saves of the same name left behind that were killed long ago."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LONG_AGO:
                shutil.rmtree(left, ignore_errors=True)


def _check_target(target: Path, model_type: str) -> None:
    """Raise CannotSave where something else is there; another model's tokenizer must not stay beside this one."""
    if target.exists() and not target.is_dir():
        raise CannotSave(str(target), "it is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise CannotSave(str(target), "the folder holds other things than a checkpoint: name a new folder")
    there = _model_type(target / "config.json")
    if there not in (None, model_type):
        raise CannotSave(str(target), f"it holds a {there} checkpoint, and this is a {model_type}: name another folder")


def _model_type(file: Path) -> str | None:
    """What a configuration says that it is of; None where there is none, or none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found["model_type"]) if isinstance(found, dict) and "model_type" in found else None


def _write(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise CannotSave(str(folder), f"{type(error).__name__}: {error}") from error
    if getattr(model.config, ATTRIBUTE, None) is not None:
        file = folder / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content[ATTRIBUTE] = {**getattr(model.config, ATTRIBUTE), "weights": _hashes(folder.glob("*.safetensors"))}
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_back(model: PreTrainedModel, folder: Path) -> None:
    """Nothing is put in place that does not come back bit for bit."""
    try:
        again = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
    except Exception as error:
        raise CannotSave(str(folder), f"it does not come back ({type(error).__name__}: {error})") from error
    before, now = model.state_dict(), again.state_dict()
    if before.keys() != now.keys():
        raise CannotSave(str(folder), f"other weights come back: {sorted(before.keys() ^ now.keys())[:3]}")
    for name, tensor in before.items():
        own = tensor.detach().cpu()
        if own.shape != now[name].shape or not _same_bits(own, now[name].cpu()):
            raise CannotSave(str(folder), f"{name} does not come back as it was")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def _carry_over(old: Path, new: Path) -> None:
    """Files of an old checkpoint that are no part of it."""
    if not old.is_dir():
        return
    weights = {path.name for pattern in _WEIGHTS for path in old.glob(pattern)}
    for path in old.iterdir():
        if path.name in weights or (new / path.name).exists():
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _sync(folder: Path) -> None:
    """On the disk before it is in its place: a power cut must not leave a name without its content.

    And readable by whom the umask lets: safetensors writes files for their owner alone.
    """
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        path.chmod(0o666 & ~_umask())
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink() or not (path.is_file() or path == folder):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # folders cannot be opened on Windows
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(new: Path, target: Path) -> None:
    """One step where the system can exchange two folders (Linux); else the old one is moved away first."""
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        away = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.rename(away / "checkpoint")
        new.rename(target)
        shutil.rmtree(away, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can (renameat2 with RENAME_EXCHANGE)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here = -100  # AT_FDCWD
    return int(rename(here, os.fsencode(one), here, os.fsencode(other), 2)) == 0


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file."""
    found = {}
    for path in sorted(files):
        with path.open("rb") as file:
            found[path.name] = _sha256(file)
    return found


def _sha256(file: BinaryIO) -> str:
    sha = hashlib.sha256()
    while block := file.read(1 << 20):
        sha.update(block)
    return sha.hexdigest()


# -- in ----------------------------------------------------------------------------------------------------------------


def follow_plan(model: PreTrainedModel, files: Iterable[str] | None) -> None:
    """Cut a model that was just built, as its configuration says; raises InvalidPlan where that cannot be right.

    `files` are the weights it is about to be given, None where they come from memory.
    """
    content = getattr(model.config, ATTRIBUTE, None)
    if content is None:
        return
    plan = PruningPlan.from_jsonable(content)
    weights = content.get("weights") if isinstance(content, Mapping) else None
    if weights is not None and files is not None:
        _check_weights(weights, [Path(file) for file in files])
    plan = plan.for_class(model)
    plan.apply(model)
    # The hash is the file's, and goes: what is written after training has other weights.
    plan.attach(model)


def _check_weights(expected: Mapping[str, str], files: Iterable[Path]) -> None:
    found = _hashes(path.resolve() if path.is_symlink() else path for path in files)
    if sorted(found.values()) != sorted(expected.values()):
        raise InvalidPlan(
            "the weights beside it are not those it was written with: the plan is another checkpoint's, or the file "
            "was changed"
        )


def _place_seal(plan: PruningPlan, device_map: Any) -> None:
    """Name the seal in a map of modules to devices, which was made before there was one."""
    if isinstance(device_map, dict) and "" not in device_map:
        devices = [device for device in device_map.values() if device != "disk"] or ["cpu"]
        device_map.setdefault(f"{plan.prefix}.{SEAL}".lstrip("."), devices[0])


def install() -> None:
    """Teach `from_pretrained` to follow plans; done once, when this package is imported."""
    original = PreTrainedModel._load_pretrained_model
    if getattr(original, "follows_plans", False):
        return

    @functools.wraps(original)
    def load(model: PreTrainedModel, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        follow_plan(model, None if state_dict is not None else checkpoint_files)
        plan = plan_of(model)
        if plan is not None:
            settings = kwargs.get("load_config", args[0] if args else None)
            _place_seal(plan, getattr(settings, "device_map", None))
        found = original(model, state_dict, checkpoint_files, *args, **kwargs)
        if plan is not None:
            plan.check_seal(model, getattr(found[0], "missing_keys", ()))
        return found

    load.follows_plans = True  # type: ignore[attr-defined]
    PreTrainedModel._load_pretrained_model = staticmethod(load)


install()
