"""The tiny models of other families, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from hf_tiny import FAMILIES, build


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Do not write into them."""
    return {family: build(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def directory(family: str, directories: dict[str, Path]) -> Path:
    return directories[family]
