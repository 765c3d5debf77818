"""The preference set as a run of the pipeline makes it: by its recipe, with its own tokenizer, pictures and notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from preference_samples import general

from open4ov.errors import UserError
from open4ov.graph import StageRun
from open4ov.model import Processor
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.sample import Sample, assistant, user
from open4ov.sft.encoding import Encoder
from open4ov.sft.preference_data import for_run
from open4ov.store import ImageStore, write_samples


class Heard(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, stage: str, text: str) -> None:
        self.notes.append(text)


def a_run(root: Path, tiny_dir: Path, **settings: Any) -> tuple[StageRun, Heard]:
    recipe = Recipe.model_validate({"name": "t", "model": str(tiny_dir), **settings})
    heard = Heard()
    run = StageRun(
        recipe=recipe,
        out=root / "out",
        scratch=root / "scratch",
        inputs={"data": root / "data"},
        images=ImageStore(root / "image-store"),
        seed=0,
        stage="sft_preference",
        _reporter=heard,
    )
    return run, heard


def samples(store: ImageStore, count: int = 24) -> list[Sample]:
    """The samples of the corpora, each picture a plain one of a colour of its own."""
    found = list(general(count))
    names = {
        sha: store.put(Image.new("RGB", (64, 64), (n, 0, 99)))
        for n, sha in enumerate({s: 0 for x in found for s in x.images})
    }
    return [s.model_copy(update={"images": [names[sha] for sha in s.images]}) for s in found]


def test_conversations_fill_the_stage_s_own_packs(tiny_dir: Path, tmp_path: Path) -> None:
    run, heard = a_run(tmp_path, tiny_dir, sft={"pack_tokens": 256, "preference": {"pack_tokens": 1500}})
    made = for_run(run, samples(run.images), 60)
    encoder = Encoder(Processor.from_pretrained(tiny_dir), run.images)
    longest = max(encoder.length(s) for s in made.samples)
    assert 600 < longest <= 1500
    assert len(made.samples) == 60
    assert made.report["kinds"].keys() >= {"needle", "long_context"}
    assert heard.notes == []


def test_failed_tasks_of_an_earlier_run_join_the_set(tiny_dir: Path, tmp_path: Path) -> None:
    earlier = ImageStore(tmp_path / "old" / "image-store")
    sha = earlier.put(Image.new("RGB", (64, 64), "red"))
    failed = Sample(
        id="f", source="t", task="reasoning", images=[sha], answer="7", pass_rate=0.0,
        messages=[user("Hard? \\boxed", images=1), assistant("3+4=7. \\boxed{7}")],
    )  # fmt: skip
    known = failed.model_copy(update={"id": "k", "pass_rate": 0.5})
    write_samples(tmp_path / "old" / "rl" / "failed.parquet", [failed, known])
    settings = {"sft": {"preference_set": {"hard": str(tmp_path / "old")}}}
    run, _ = a_run(tmp_path / "new", tiny_dir, **settings)
    made = for_run(run, samples(run.images), 20)
    (hard,) = [s for s in made.samples if s.extra["preference"] == "high_difficulty"]
    assert hard.lineage == ["f"]
    assert hard.messages == failed.messages
    assert run.images.get(sha).size == (64, 64)
    assert made.report["hard"] == {"given": 1, "taken": 1, "left_out": {"not failed altogether by its own rollouts": 1}}


def test_the_catalog_cannot_write_in_a_style(tiny_dir: Path, tmp_path: Path) -> None:
    roles = {"providers": {"default": {"kind": "catalog"}}, "roles": {"preference": "default"}}
    run, _ = a_run(tmp_path, tiny_dir, data=roles)
    with pytest.raises(UserError, match=r"data\.roles\.preference: provider 'default' is the catalog"):
        for_run(run, samples(run.images, 4), 10)


def test_a_user_is_told_what_fell_out(tiny_dir: Path, tmp_path: Path) -> None:
    run, heard = a_run(tmp_path, tiny_dir)
    made = for_run(run, [s for s in samples(run.images, 8) if s.images], 10)
    assert "preference set: no text_only: there is no question without a picture" in heard.notes
    assert len(made.samples) == 10


def test_nothing_that_is_trained_on_is_validated_with(tiny_dir: Path, tmp_path: Path) -> None:
    """Of the same words, without pictures, are questions of both sides; and all fits into the stage's packs."""
    run, _ = a_run(tmp_path, tiny_dir, sft={"pack_tokens": 512, "preference": {"pack_tokens": 600}})
    texts = [s for s in samples(run.images, 60) if not s.images]
    held = [s.model_copy(update={"id": f"held {s.id}", "split": "val"}) for s in texts[::2]]
    made = for_run(run, texts, 400, held)
    trained = {tuple(m.text for m in s.messages) for s in made.samples}
    assert made.validation
    assert not [s for s in made.validation if tuple(m.text for m in s.messages) in trained]
    encoder = Encoder(Processor.from_pretrained(tiny_dir), run.images)
    assert max(encoder.length(s) for s in made.validation) <= 600
