"""Shared by all tests: one torch thread, tests/ importable, real data when it is there, the throwaway family on request."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes the CPU seconds of every contract test, but not those of fixtures: several families share them."""
    item.config.stash[_STARTED] = time.process_time()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call" and "contract" in item.path.parts:
        report.user_properties.append(("cpu", time.process_time() - item.config.stash[_STARTED]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the contract suite costs for each family, in CPU seconds: a new family is to cost less than `_BUDGET`."""
    from reverie import catalog

    costs: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, seconds in getattr(report, "user_properties", ()):
                words = re.split(r"[-\[\] ]", report.nodeid.partition("[")[2])
                family = next((word for word in words if word in catalog.families()), None)
                if name == "cpu" and family is not None:
                    costs[family] = costs.get(family, 0.0) + seconds
    if len(costs) < 5:
        return
    listed = ", ".join(f"{name} {cost:.1f}" for name, cost in sorted(costs.items(), key=lambda item: -item[1]))
    terminalreporter.write_line(f"contract suite, CPU seconds a family: {listed}")
    for name, cost in costs.items():
        if cost > _BUDGET:
            terminalreporter.write_line(
                f"{name} costs more than {_BUDGET:.0f} s of contract tests: use a smaller recipe in its kit"
            )


_BUDGET = 12.0
_STARTED = pytest.StashKey[float]()


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
