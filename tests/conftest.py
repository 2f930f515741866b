"""Shared by all tests: one torch thread, tests/ importable, real data when it is there, the throwaway family on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: $REVERIE_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("REVERIE_DATA") or TESTS.parent.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set REVERIE_DATA to the one that holds mnist.npz)")
    return folder


@pytest.fixture
def guided_family() -> Iterator[str]:
    """The family of joints.py, in the catalog for this test only."""
    from joints import ROW
    from reverie import catalog

    catalog.register(ROW)
    yield ROW.name
    catalog.families().pop(ROW.name)


@pytest.fixture
def scribe_family() -> Iterator[str]:
    """The recurrent family of joints.py, in the catalog for this test only."""
    from joints import SCRIBE_ROW
    from reverie import catalog

    catalog.register(SCRIBE_ROW)
    yield SCRIBE_ROW.name
    catalog.families().pop(SCRIBE_ROW.name)


@pytest.fixture
def stack_family() -> Iterator[str]:
    """The two-phase family of families.py, in the catalog for this test only."""
    from families import STACK_ROW
    from reverie import catalog

    catalog.register(STACK_ROW)
    yield STACK_ROW.name
    catalog.families().pop(STACK_ROW.name)
