"""What a recipe may not say of RL's pool of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.progress import Quiet
from open4ov.recipe import load

FAULTS = [
    ("rl: {pool: {sources: [{kind: set}]}}", "kind `set` needs `path`: its folder"),
    ("rl: {pool: {sources: []}}", "rl.pool.sources"),
    ("rl: {pool: {sources: [{kind: sett}]}}", "rl.pool.sources.0.kind: expected"),
    ("rl: {pool: {sources: [{kid: set}]}}", "rl.pool.sources.0.kid: unknown key 'kid'; did you mean 'kind'?"),
    ("rl: {pool: {sources: [{share: 0.5}]}}", "the shares sum to 0.5; they must sum to 1"),
    ("rl: {pool: {sources: [{share: 0.7}, {kind: data, share: 0.7}]}}", "the shares sum to 1.4; they must sum to 1"),
    ("rl: {pool: {sources: [{share: 0.5}, {share: 0.5}]}}", "2 sources are called 'corpora'; give each a `name`"),
    ("rl: {pool: {judged: 5}}", "rl.pool.judged: needs data.roles.rl_pool: the provider that judges"),
    ("rl: {pool: {screened: true, queue: 0}}", "nothing is set out to be screened"),
    ("rl: {leakage: {rollouts: 3}}", "none could be told from a guess; use more"),
    ("rl: {leakage: {level: 0.1}}", "rl.leakage.level: has no effect: rl.leakage.rollouts is 0"),
    ("rl: {text_share: 1, leakage: {rollouts: 8}}", "has no effect: rl.text_share is 1"),
    ("rl: {pool: {sources: [{path: x}]}}", "rl.pool.sources.0.path: has no effect: kind `corpora` is no folder"),
    ("rl: {pool: {sources: [{most: 5}]}}", "rl.pool.sources.0.most: has no effect"),
    ("rl: {pool: {near_questions: 0.9}}", "rl.pool.near_questions: has no effect: all sources are the corpora"),
    ("rl: {pool: {queue: 5}}", "rl.pool.queue: has no effect: all sources are the corpora"),
    ("rl: {steps: 0, pool: {queue: 3}}", "rl.pool: has no effect: rl.steps is 0"),
    ("data: {roles: {rl_pool: default}}", "data.roles.rl_pool: has no effect: rl.pool.judged is 0"),
]


@pytest.mark.parametrize(("text", "told"), FAULTS)
def test_faults_are_told_with_their_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: a\n{text}\n")
    with pytest.raises(UserError) as error:
        load(path)
    assert told in str(error.value)
    assert "r.yaml, line 2" in str(error.value)


def test_a_recipe_with_all_of_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("""name: a
data: {roles: {rl_pool: default}}
rl:
  text_share: 0.25
  pool:
    sources:
      - {share: 0.4}
      - {kind: sft, share: 0.2, tasks: [reasoning]}
      - {kind: set, path: sets/geometry, share: 0.3, most: 5000, domain: mathematics}
      - {kind: documents, path: exams/physics, share: 0.1}
    judged: 50
    queue: 40
    max_bad: 0.05
  leakage: {rollouts: 8}
""")
    pool = load(path).rl.pool
    assert [source.title for source in pool.sources] == ["corpora", "sft", "geometry", "physics"]


@pytest.mark.parametrize(
    ("rl", "told"),
    [
        (
            "{pool: {sources: [{kind: set, path: nowhere}]}}",
            "rl.pool.sources: 'nowhere': nowhere/samples.parquet: no such",
        ),
        ("{pool: {decisions: nowhere, sources: [{kind: data}]}}", "rl.pool.decisions: no such file or folder: nowhere"),
    ],
)
def test_what_is_not_there_is_told_before_anything_runs(tmp_path: Path, rl: str, told: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: a\nrl: {rl}\n")
    with pytest.raises(UserError) as error:
        pipeline.run(load(path), tmp_path / "out", Quiet())
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()
