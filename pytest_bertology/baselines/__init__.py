"""Baselines: what was measured once, kept as plain text, and what is measured now compared with it by meaning.

`records` turns a value into a plain record, `provenance` says what it was made of, `files` keeps records, `compare` and
its neighbours judge one record against another. Nothing here knows pytest.
"""
