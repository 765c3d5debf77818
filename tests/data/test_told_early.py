"""What a run would stumble over in stage `data` is told before its images are read, and what a total cannot be, before
anything is paid."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.fake_model import pictures, recipe, reply
from data.made_up import MadeUp, asker
from mllm.endpoint import endpoint

from open4ov import pipeline
from open4ov.data.construct import make
from open4ov.errors import UserError
from open4ov.images import open_image
from open4ov.progress import Quiet
from open4ov.recipe import DataSection, load
from open4ov.sample import Sample
from open4ov.store import ImageStore


def test_faults_of_the_machine_and_the_recipe_come_before_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, run = pictures(tmp_path / "images", 1), tmp_path / "run"
    file = recipe(tmp_path / "r.yaml", "http://127.0.0.1:9/v1", str(images))
    (tmp_path / "taken").write_text("")
    (tmp_path / "bad.tsv").write_bytes(b"index\tquestion\n1\t\xff\n")
    monkeypatch.setenv("TEST_KEY", "k" * 20)
    cases = [
        (["data.providers.default.api_key_env=TEST_NONE"], r"data\.providers\.default\.api_key_env.*TEST_NONE is not"),
        (["data.embedder={endpoint: {base_url: 'http://127.0.0.1:9/v1', model: e, api_key_env: TEST_NONE}}"],
         r"data\.embedder\.endpoint\.api_key_env"),
        (["data.density_scenarios={Natur: {ocr: 1}}"], r"data\.density_scenarios\.Natur.*did you mean 'Nature'"),
        ([f"data.cache={tmp_path / 'taken'}"], r"data\.cache: .*taken: cannot be written"),
        ([f"data.cache={tmp_path / 'taken' / 'below'}"], r"data\.cache: .*below: cannot be written"),
        ([f"data.hygiene.decontaminate=['{tmp_path / 'bad.tsv'}']"], r"bad\.tsv"),
    ]  # fmt: skip
    for given, said in cases:
        with pytest.raises(UserError, match=said):
            pipeline.run(load(file, given), run, Quiet(), until="data")
        assert not (run / "images").exists(), given


def test_a_finished_stage_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on with training on a machine that has none."""
    images, run = pictures(tmp_path / "images", 1), tmp_path / "run"
    monkeypatch.setenv("TEST_KEY", "k" * 20)
    with endpoint(reply) as server:
        chosen = load(recipe(tmp_path / "r.yaml", server.url, str(images)))
        pipeline.run(chosen, run, Quiet(), until="data")
    monkeypatch.delenv("TEST_KEY")
    assert [one.status for one in pipeline.run(chosen, run, Quiet(), until="data")] == ["skipped", "skipped"]
    pictures(tmp_path / "images", 2)
    with pytest.raises(UserError, match="TEST_KEY is not set"):
        pipeline.run(chosen, run, Quiet(), until="data")


@pytest.mark.parametrize("total", [5, 25])
def test_a_total_that_no_image_count_gives_is_refused_before_anything_is_asked(tmp_path: Path, total: int) -> None:
    store, provider = ImageStore(tmp_path / "store"), MadeUp()
    files = sorted(pictures(tmp_path / "images", 3).iterdir())
    given = [
        Sample(id=f"i{n}", source="s", task="image", images=[store.put(open_image(f))]) for n, f in enumerate(files)
    ]
    section = DataSection(min_pairs=2, max_pairs=8, total_pairs=total)
    with pytest.raises(UserError, match=rf"{total} pairs cannot be had of 3 images with 2 to 8 each \(6 to 24\)"):
        make(given, section, store, asker=asker(section, provider))
    assert provider.asked == []
