"""Settings of hypothesis, the state of the core between tests, and data."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from dlcore import _core
from dlcore.data import load

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("local", deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _same_kernels_after():
    """Every test starts with the kernels the session started with."""
    before = _core.kernels()
    yield
    _core.set_kernels(before)


@pytest.fixture(params=_core.available_kernels())
def kernels(request, _same_kernels_after):
    """Each implementation this CPU can run, in use."""
    _core.set_kernels(request.param)
    return request.param


@pytest.fixture(scope="session")
def digits():
    """The embedded data set, which no test changes."""
    return load("digits")
