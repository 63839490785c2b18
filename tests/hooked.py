"""Tests that need hidden states as hooks leave them, which older transformers do not show."""

from __future__ import annotations

import pytest

from pytest_bertology.models.capturing import HOOKED

hooked = pytest.mark.skipif(not HOOKED, reason="this transformers notes states before hooks act, which is refused")
