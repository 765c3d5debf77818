"""`labels review` asks a real endpoint, and what was answered is not asked or paid for again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open4ov.cli import app

sys.path.insert(0, str(Path(__file__).parents[1] / "mllm"))
from endpoint import Raw, completion, endpoint

ANSWER = json.dumps({"labels": []})


def test_a_second_review_asks_nothing_and_its_budget_is_that_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    recipe = tmp_path / "r.yaml"

    def review(tokens: int, *under: str) -> Any:
        recipe.write_text(
            f"name: a\ndata:\n  budget: {{tokens: {tokens}}}\n  providers:\n"
            f"    default: {{kind: openai, base_url: '{server.url}', model: m, api_key_env: TEST_KEY,\n"
            "              max_tokens: 50}\n"
        )
        more = [part for name in under for part in ("--under", name)]
        return CliRunner().invoke(
            app, ["labels", "review", "--out", str(tmp_path / "o"), "--recipe", str(recipe), *more]
        )

    with endpoint(lambda body, number: Raw(completion(ANSWER, (3000, 10)))) as server:
        first = review(100_000, "domain:healthcare")
        assert first.exit_code == 0, first.exception
        assert len(server.bodies) == 1
        assert review(100_000, "domain:healthcare").exit_code == 0
        assert len(server.bodies) == 1
        other = review(3500, "domain:healthcare", "ability:counting")
        assert "data.budget.tokens: 3010 of 3500 are spent" in str(other.exception)
        assert len(server.bodies) == 1
