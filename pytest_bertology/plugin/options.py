"""The plugin's settings and where each comes from: marker > command line > environment > ini file > default."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.names import DTYPES, IMPORTANCE_METHODS, KINDS, METRICS, OWN_METHOD
from pytest_bertology.plugin.own_methods import own_methods


@dataclass(frozen=True)
class Option:
    """One setting: `--bertology-NAME`, `BERTOLOGY_NAME` and, in the ini file, `bertology_name`."""

    name: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    flag: bool = False
    many: bool = False
    metavar: str | None = None
    check: Callable[[str], str | None] | None = None
    """Says what values are valid where the value is not, else None."""
    more: Callable[[pytest.Config, object], Iterable[str]] | None = None
    """Further choices, which conftests and plugins bring along, given one that somebody asks for."""
    others: str = ""
    """What those are, in words."""
    path: bool = False
    """Whether the value may name a file or folder; in an ini file, relative to that file."""

    @property
    def flag_name(self) -> str:
        """As written on the command line."""
        return "--bertology-" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "BERTOLOGY_" + self.name.upper()

    @property
    def ini(self) -> str:
        """The name in the ini file."""
        return "bertology_" + self.name

    def refusal(self, config: pytest.Config, value: object) -> str | None:
        """The choices, where there are some and the value is none of them."""
        if not self.choices or value in self.choices:
            return None
        more = tuple(self.more(config, value)) if self.more is not None else ()
        return None if value in more else self.listed(more)

    def listed(self, more: tuple[str, ...] = ()) -> str:
        """The choices, and further ones, as messages have them."""
        return ", ".join(self.choices + more) + (f", or {self.others}" if self.others else "")


@dataclass(frozen=True)
class Setting:
    """A value and where it comes from."""

    value: Any
    source: str

    @property
    def given(self) -> bool:
        """Whether somebody chose it."""
        return self.source != "default"


def _device(value: str) -> str | None:
    return None if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) else "auto, cpu, cuda, cuda:N or mps"


def _fraction(value: str) -> str | None:
    try:
        valid = 0.0 < float(value) <= 1.0
    except ValueError:
        valid = False
    return None if valid else "a number above 0 and up to 1, such as 0.5"


def _model(value: str) -> str | None:
    looks_like_path = value.startswith((".", "/", "~")) or value.count("/") > 1
    return "a hub name or an existing folder" if looks_like_path and not Path(value).is_dir() else None


def _task(value: str) -> str | None:
    ending = re.search(r"\.(csv|tsv|jsonl|parquet|conllu|conll|bio|iob2)$", value)
    looks_like_path = value.startswith((".", "/", "~")) or ending
    return "a hub name, or an existing file or folder" if looks_like_path and not Path(value).exists() else None


def _mask_file(value: str) -> str | None:
    try:
        content = json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError:
        return "an existing file with a head mask"
    except ValueError:
        content = None
    valid = isinstance(content, dict) and "masked" in content and "heads" in content
    return None if valid else "a JSON file written with HeadMask.to_json()"


def _report(value: str) -> str | None:
    path = Path(value)
    return None if path.absolute().parent.is_dir() and not path.is_dir() else "a file in an existing folder"


def _folder(value: str) -> str | None:
    return "a folder" if Path(value).exists() and not Path(value).is_dir() else None


UPDATES = ("none", "new", "changed", "all")

OPTIONS = (
    Option(
        "model",
        "the model to test: a folder, a hub name, or 'embedded' (all-MiniLM-L6-v2 from PyPI, no hub needed); "
        "repeated, every test that uses bertology_model runs for each",
        many=True,
        metavar="MODEL",
        check=_model,
        path=True,
    ),
    Option(
        "task",
        "the data it is judged on: a .csv, .tsv, .jsonl, .parquet, .conllu or .conll file, a hub name such as "
        "glue/sst2, or 'embedded'",
        metavar="TASK",
        check=_task,
        path=True,
    ),
    Option("split", "split of the task (default: validation, or the only one)", metavar="SPLIT"),
    Option("text", "column of the texts, or two with a comma between for pairs (default: the usual names)"),
    Option("label", "column of the labels (default: the usual names)"),
    Option("metric", "how predictions are judged (default: by the kind of task)", choices=METRICS),
    Option("kind", "kind of model (default: what the checkpoint was saved as)", choices=KINDS),
    Option("tokenizer", "folder or hub name of the tokenizer (default: the model's)", metavar="SOURCE", path=True),
    Option("revision", "revision of a model from the hub", metavar="REVISION"),
    Option("device", "where models run: auto, cpu, cuda or cuda:N", default="auto", metavar="DEVICE", check=_device),
    Option("dtype", "dtype that models are loaded with (default: the checkpoint's)", choices=DTYPES),
    Option("head_mask", "JSON file with the head mask to test under", metavar="FILE", check=_mask_file, path=True),
    Option(
        "importance",
        "how head_importance ranks heads",
        default="gradient",
        choices=IMPORTANCE_METHODS,
        more=own_methods,
        others=OWN_METHOD,
    ),
    Option("store", "folder that keeps results across sessions", metavar="FOLDER", check=_folder, path=True),
    Option(
        "update",
        "write baselines: none; new ones; changed ones too (those that a check refuses); or all of the tests that run",
        default="none",
        choices=UPDATES,
    ),
    Option("update_in_ci", "let --bertology-update write although this is CI (the variable CI is set)", flag=True),
    Option(
        "remove_unused",
        "remove baselines that no test asks for, after a full run in which every test passed; needs "
        "--bertology-update=changed or all",
        flag=True,
    ),
    Option(
        "reference",
        "compare with this model, instead of with stored baselines: a folder or a hub name",
        check=_model,
        path=True,
    ),
    Option(
        "noise_floor",
        "measure what batch size, padding, attention backend, threads and dtype do to the scores on this machine; a "
        "tolerance below that is refused",
        flag=True,
    ),
    Option(
        "inconclusive",
        "what becomes of a check that the data can neither confirm nor refute",
        default="fail",
        choices=("fail", "warn"),
    ),
    Option(
        "correction",
        "how p-values against baselines are corrected for the number of comparisons in a run",
        default="holm",
        choices=("holm", "none"),
    ),
    Option("report_json", "write every verdict to this JSON file", metavar="FILE", check=_report, path=True),
    Option(
        "report_html",
        "write a report for people to this HTML file: one file, no network needed",
        metavar="FILE",
        check=_report,
        path=True,
    ),
    Option(
        "report_markdown",
        "write a summary for a CI job's page to this file; where GITHUB_STEP_SUMMARY is set, it is appended there "
        "without being asked for",
        metavar="FILE",
        check=_report,
        path=True,
    ),
    Option(
        "figures",
        "draw what tests compute as files in this folder: importance, ablation, attention statistics, relations, "
        "pruning curves and curves of constant attention",
        metavar="FOLDER",
        check=_folder,
        path=True,
    ),
    Option(
        "gpu_memory",
        "share of a GPU's memory that this process, or each worker of pytest-xdist, may take (default: all of it, "
        "divided by the workers on that GPU)",
        metavar="FRACTION",
        check=_fraction,
    ),
    Option("require_gpu", "fail, and do not skip, where a test needs a GPU and there is none", flag=True),
    Option("trust_remote_code", "run the code that a checkpoint brings along", flag=True),
)
BY_NAME = {option.name: option for option in OPTIONS}
MARKER_ARGUMENTS = (
    "model", "task", "split", "text", "label", "metric", "kind", "tokenizer", "importance", "heads_masked",
)  # fmt: skip


def add_options(parser: pytest.Parser) -> None:
    """Register every setting on the command line and in the ini file."""
    group = parser.getgroup("bertology", "bertology: head-pruning and behaviour checks of transformer models")
    for option in OPTIONS:
        arguments: dict[str, Any] = {"default": None, "dest": option.ini, "help": option.help}
        if option.flag:
            arguments["action"] = "store_true"
        else:
            arguments["action"] = "append" if option.many else "store"
            arguments["metavar"] = option.metavar or option.name.upper()
        if option.choices:
            arguments["help"] += f"; one of {option.listed()}"
        group.addoption(option.flag_name, **arguments)
        kind: Any = "bool" if option.flag else "linelist" if option.many else "string"
        parser.addini(option.ini, option.help, type=kind, default=None if not option.flag else False)


class Settings:
    """All settings of a session. Making it checks them: raises pytest.UsageError before anything is loaded."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = {option.name: self._resolve(option) for option in OPTIONS}

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def value(self, name: str) -> Any:
        """The value alone."""
        return self._settings[name].value

    @property
    def given(self) -> dict[str, Setting]:
        """The settings that somebody chose."""
        return {name: setting for name, setting in self._settings.items() if setting.given}

    def header(self) -> list[str]:
        """A line per chosen setting, with its source."""
        return [f"bertology {name}: {_shown(s.value)} (from {s.source})" for name, s in self.given.items()]

    def _resolve(self, option: Option) -> Setting:
        config = self._config
        value = config.getoption(option.ini)
        if value not in (None, []):
            return self._checked(option, Setting(value, option.flag_name))
        if os.environ.get(option.variable):
            return self._checked(option, Setting(_from_environment(option), option.variable))
        source = f"{option.ini} in {config.inipath.name if config.inipath else 'ini file'}"
        try:
            value = config.getini(option.ini)
        except (ValueError, pytest.UsageError) as error:
            raise pytest.UsageError(f"{source}: {error}; expected {_ini_type(option)}") from None
        if value not in (None, "", [], False):
            return self._checked(option, Setting(self._beside_ini(option, value), source))
        return Setting([] if option.many else False if option.flag else option.default, "default")

    def _beside_ini(self, option: Option, value: Any) -> Any:
        """Paths in an ini file are relative to it, wherever pytest is started."""
        folder = self._config.inipath.parent if self._config.inipath else self._config.rootpath
        if not option.path:
            return value
        placed = [_beside(folder, item, option) for item in ([value] if isinstance(value, str) else value)]
        return placed[0] if isinstance(value, str) else placed

    def _checked(self, option: Option, setting: Setting) -> Setting:
        for value in setting.value if option.many else [setting.value]:
            valid = option.refusal(self._config, value)
            if valid is None and option.check is not None:
                valid = option.check(value)
            if valid is not None:
                raise pytest.UsageError(f"{setting.source}: {value!r} is not valid; expected {valid}")
        return setting


def _ini_type(option: Option) -> str:
    return "true or false" if option.flag else "a list" if option.many else "a string"


def _beside(folder: Path, value: str, option: Option) -> str:
    placed = folder / value
    return (
        str(placed)
        if placed.exists() or option.name in ("store", "report_json", "report_html", "report_markdown", "figures")
        else value
    )


def _from_environment(option: Option) -> Any:
    text = os.environ[option.variable]
    if option.flag:
        lowered = text.strip().lower()
        if lowered not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise pytest.UsageError(f"{option.variable}: {text!r} is not valid; expected 1 or 0")
        return lowered in ("1", "true", "yes", "on")
    return [part.strip() for part in text.split(",") if part.strip()] if option.many else text


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def marker_arguments(markers: Iterable[pytest.Mark], where: str, config: pytest.Config) -> dict[str, Any]:
    """What `@pytest.mark.bertology(...)` asks for; the closest marker wins, argument by argument.

    Raises pytest.UsageError for positional or misspelt arguments, naming the test.
    """
    found: dict[str, Any] = {}
    for marker in markers:
        if marker.args:
            raise pytest.UsageError(
                f"{where}: @pytest.mark.bertology takes keyword arguments only ({', '.join(MARKER_ARGUMENTS)}); "
                f"found {marker.args[0]!r}"
            )
        for name, value in marker.kwargs.items():
            if name not in MARKER_ARGUMENTS:
                from difflib import get_close_matches

                close = get_close_matches(name, MARKER_ARGUMENTS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                raise pytest.UsageError(
                    f"{where}: @pytest.mark.bertology has no argument {name!r}{hint} "
                    f"It takes {', '.join(MARKER_ARGUMENTS)}."
                )
            option = BY_NAME.get(name)
            valid = option.refusal(config, value) if option is not None else None
            if valid is not None:
                raise pytest.UsageError(
                    f"{where}: @pytest.mark.bertology({name}={value!r}) is not valid; expected one of {valid}"
                )
            found.setdefault(name, value)
    return found
