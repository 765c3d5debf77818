"""A finished run with invented answers, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished_runs import copied, finished_run

from open4ov.report import page
from open4ov.report.drawing import Drawing


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Made once: the answers of six models and their intervals take a while. Do not write into it."""
    return finished_run(tmp_path_factory.mktemp("original"))


@pytest.fixture
def finished(original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `StageRun` look-alike for the stage `report`. Figures are blank: drawing takes most of a report's time."""
    monkeypatch.setattr(Drawing, "svg", lambda _: "<svg></svg>")
    return copied(original, tmp_path)


@pytest.fixture(scope="session")
def reported(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of such a run. Do not write into it."""
    run = copied(original, tmp_path_factory.mktemp("reported"))
    page.run(run)
    return run.out
