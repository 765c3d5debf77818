"""`open4ov admit balance` from the command line: a set that can be read again, its figures, page and feedback file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from open4ov import cli, feedback
from open4ov.formats.convert import located
from open4ov.report import balance_page
from open4ov.sample import Label, Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples

TREE_NAMES = (
    (("Automotive", "Road signs"), ("Knowledge", "Meaning")),
    (("Nature", "Animals"), ("Recognition", "Object naming")),
)


def made(folder: Path, counts: tuple[int, int]) -> Path:
    """A set of samples of the shipped tree's labels, with a picture for each label."""
    store = ImageStore(folder / "image-store")
    samples: list[Sample] = []
    for place, ((domain, ability), count) in enumerate(zip(TREE_NAMES, counts, strict=True)):
        sha = store.put(Image.new("RGB", (32, 32), (200 * place, 40, 90)))
        samples += [
            Sample(
                id=f"{place}-{number}", source="t", task="naming", images=[sha],
                messages=[user(f"What is number {number} <&>?", images=1), assistant("a thing " * (1 + number % 3))],
                labels=[Label(axis="domain", l1=domain[0], l2=domain[1]),
                        Label(axis="ability", l1=ability[0], l2=ability[1])],
                topics=[f"{ability[0]} ~ {ability[1]} ~ <script>"],
            )
            for number in range(count)
        ]  # fmt: skip
    write_samples(folder / "samples.parquet", samples)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["open4ov", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.slow
def test_a_set_is_balanced_and_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made(tmp_path / "data", (90, 6))
    out = tmp_path / "out"
    assert run(monkeypatch, "admit", "balance", str(data), str(data / "samples.parquet"), "--out", str(out)) == 0
    told = capsys.readouterr().out
    assert "96 samples were given twice and taken once" in told
    assert "scarce: domain Nature: 18 of 48, 6 different samples" in told
    file, store = located(out)
    samples = read_samples(file)
    assert len(samples) == 66
    assert store.get(samples[0].images[0]).size == (32, 32)
    wishes = feedback.read(out / "feedback.yaml").wishes
    assert {(wish.domain, wish.ability) for wish in wishes} == {("Nature", None), (None, "Recognition")}
    figures = json.loads((out / "balance.json").read_text())
    assert set(figures["latent"]) == {"attributes", "embedding"}
    page, markdown = (out / "balance.html").read_text(), (out / "balance.md").read_text()
    assert page == balance_page.page(figures)  # from the file alone, and the same twice
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "~ &lt;script&gt;" in page
    assert "| domain | Nature | 6 | 48 | 18 | yes |" in markdown
    again = tmp_path / "again"
    assert run(monkeypatch, "admit", "balance", str(data), "--out", str(again), "--quiet") == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == {
        path.name: path.read_bytes() for path in again.glob("*.*")
    }


def test_a_recipe_says_how_and_what_it_may_not_say_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(made(tmp_path / "data", (30, 20)))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: t\nadmission:\n  balance:\n"
        "    {samples: 20, domain: {Automotive: 0.75, Nature: 0.25}, ability: as_is, max_clusters: 0}\n"
    )
    call = ("admit", "balance", data, "--recipe", str(recipe))
    shares = "--set=admission.balance.domain={Automotve: 1.0}"
    for options, said in (
        (("--set", "admission.balance.samples=0"), "admission.balance.samples is 0"),
        ((shares,), "the label tree has no domain 'Automotve'; did you mean 'Automotive'?"),
    ):
        assert run(monkeypatch, *call, "--out", str(tmp_path / "no"), *options) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
    assert run(monkeypatch, *call, "--out", str(tmp_path / "out"), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert "latent" not in figures
    assert run(monkeypatch, *call, "--out", str(tmp_path / "out")) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(monkeypatch, "admit", "balance", data, "--set", "seed=1", "--out", str(tmp_path / "b")) == 2


def test_a_missing_picture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made(tmp_path / "data", (12, 12))
    sha = read_samples(data / "samples.parquet")[0].images[0]
    ImageStore(data / "image-store").path(sha).unlink()
    assert run(monkeypatch, "admit", "balance", str(data), "--out", str(tmp_path / "out")) == 2
    assert f"the picture {sha} of a sample is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
