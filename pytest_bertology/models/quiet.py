"""transformers without its progress bars and load reports."""

from __future__ import annotations

from transformers.utils import logging as transformers_logging


class Quiet:
    """No progress bars and load reports: what matters of them is raised as an error."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        self._bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *raised: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        if self._bars:
            transformers_logging.enable_progress_bar()
