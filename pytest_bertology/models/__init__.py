"""A checkpoint in: loading, discovery of its heads, and gates on the live model."""

from pytest_bertology.models.loading import load_model
from pytest_bertology.models.under_test import ModelUnderTest

__all__ = ["ModelUnderTest", "load_model"]
