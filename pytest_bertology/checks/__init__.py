"""Checks: one measure, one threshold, one explained verdict."""
