"""What the everyday run leaves to the whole one, `pytest -m ""`: more cases of what it tests, and what takes long."""

import pytest


def slow(*values):
    """A set of parameters of a test that is tested in the whole run alone."""
    return pytest.param(*values, marks=pytest.mark.slow)


def but_for(parameters, everyday):
    """The parameters, those that are not among the everyday ones slow."""
    return [one if one in everyday else slow(*one) if isinstance(one, tuple) else slow(one) for one in parameters]
