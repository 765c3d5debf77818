"""Imports of the engine: what computes knows nothing of the stages, and stages nothing of servers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "src" / "open4ov" / "engine"
UPPER = tuple(f"open4ov.engine.{name}" for name in ("disaggregated", "serving", "sessions", "routing", "service"))
CORE = ("generate", "handover", "scheduler", "sequence", "paged", "request", "blocks", "vision_cache", "stage_error")


def imported(file: Path) -> set[str]:
    """Modules that a file imports from open4ov, wherever in it."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("name", CORE)
def test_what_computes_knows_nothing_of_the_stages(name: str) -> None:
    assert not [one for one in imported(ENGINE / f"{name}.py") if one.startswith(UPPER)]


@pytest.mark.parametrize("file", sorted((ENGINE / "disaggregated").glob("*.py")), ids=lambda file: file.stem)
def test_stages_know_nothing_of_servers(file: Path) -> None:
    assert not [one for one in imported(file) if one.startswith(UPPER[1:])]
