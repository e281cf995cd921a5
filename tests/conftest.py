"""What all tests share: one thread per worker, and where the data sets are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; set before torch or numpy is imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"


def pytest_report_header() -> str:
    data = os.environ.get("EPSILON_DATA")
    return f"EPSILON_DATA: {data}" if data else "EPSILON_DATA is not set: tests that need MNIST or another set are skipped"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of ``EPSILON_DATA``; without it the test is skipped."""
    data = os.environ.get("EPSILON_DATA")
    if not data:
        pytest.skip("needs a data set: set EPSILON_DATA to the folder that holds the sets")
    return Path(data)


@pytest.fixture(scope="session")
def real_set(data_folder) -> Callable[[str], Path]:
    """Return a function from a data set's name to the folder of ``EPSILON_DATA``; without that set the test is skipped."""
    from epsilon.data.catalogue import CATALOGUE
    from epsilon.data.source import MissingData

    def folder_of(name: str) -> Path:
        try:
            CATALOGUE[name].source(data_folder)
        except MissingData as error:
            pytest.skip(str(error))
        return data_folder

    return folder_of
