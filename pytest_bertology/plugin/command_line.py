"""The command line a session was started with, and the one that runs a test again."""

from __future__ import annotations

import os
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_bertology.plugin.options import BY_NAME, Settings
from pytest_bertology.plugin.workers import ungrouped

_OUTPUTS = ("report_json", "report_html", "report_markdown", "figures", "update", "update_in_ci", "remove_unused")


def rootdir_hint(config: pytest.Config) -> list[str]:
    """Pytest reads the ini file before it knows our options, and takes `--option PATH` in two words for a test path."""
    started = config.invocation_params.dir
    above = (started, *started.parents)
    if config.rootpath == started or (config.inipath is not None and config.inipath.parent in above):
        return []
    words = [str(word) for word in config.invocation_params.args]
    split = [
        word
        for word, value in pairwise(words)
        if word.startswith("--bertology-") and "=" not in word and (started / value).exists()
    ]
    return [
        f"bertology: pytest made {config.rootpath} its rootdir, and reads no ini file from {started}: "
        f"write {name}=... in one word"
        for name in split[:1]
    ]


def rerun_command(item: pytest.Item, settings: Settings) -> str:
    """The command line that runs this test alone, with the options this session was given."""
    words = ["pytest", _from_here(item)]
    for name, setting in settings.given.items():
        option = BY_NAME[name]
        if setting.source in (option.flag_name, option.variable) and name not in _OUTPUTS:
            for value in setting.value if option.many else [setting.value]:
                words.append(option.flag_name if option.flag else f"{option.flag_name}={value}")
    return shlex.join(words)


def _from_here(item: pytest.Item) -> str:
    """The test's id, its file relative to where pytest was started."""
    file, *test = ungrouped(item.nodeid).split("::", maxsplit=1)
    started = item.config.invocation_params.dir
    if item.config.rootpath != started:
        file = Path(os.path.relpath(item.config.rootpath / file, started)).as_posix()
    return "::".join([file, *test])
