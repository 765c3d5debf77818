"""Figures for the page and for papers."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.report import plots, plots_changes, plots_data, plots_headline
from open4ov.report.drawing import Drawing


def line(axes: Any) -> None:
    axes.plot([0, 1], [1, 0], label="falls")
    axes.set_title("价格 & <size>")


def test_the_page_takes_it_in_its_own_colours_and_without_ids() -> None:
    svg = Drawing("one", 'a "title" & <more>', line, 3, 2).svg()
    assert svg.startswith('<svg viewBox="')
    assert 'role="img" aria-label="a &quot;title&quot; &amp; &lt;more>"' in svg
    assert "currentColor" in svg
    assert "价格" in svg, "text stays text"
    ids = re.findall(r' id="([^"]+)"', svg)
    assert all(f"#{name}" in svg for name in ids)
    assert svg == Drawing("one", 'a "title" & <more>', line, 3, 2).svg()


def test_two_figures_of_a_page_share_no_id() -> None:
    first, second = (Drawing(name, "", line, 3, 2).svg() for name in ("one", "two"))
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', second))


def test_files_for_papers(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    drawing = Drawing("one", "", line, 3, 2)
    svg, png = drawing.save(tmp_path)
    assert [path.name for path in (svg, png)] == ["one.svg", "one.png"]
    assert "<text" not in svg.read_text(), "outlines look the same everywhere"
    with Image.open(io.BytesIO(png.read_bytes())) as image:
        assert image.size == (600, 400)
        assert image.mode == "RGBA"
    assert not [one for one in recwarn if "Glyph" in str(one.message)], "the shipped font has Chinese characters"
    before = svg.read_bytes(), png.read_bytes()
    drawing.save(tmp_path)
    assert before == (svg.read_bytes(), png.read_bytes())


def test_the_radar_has_a_line_for_each_model(reported: Path) -> None:
    table = json.loads((reported / "table.json").read_text())
    radar = plots_headline.radar(table)
    assert radar is not None
    svg = radar.svg()
    for model in table["models"]:
        assert svg.count(f'data-model="{model["name"]}"') == 2, "its line and its area"
    two = plots_headline.radar(table, frozenset({0, 5}))
    assert two is not None
    assert 'data-model="rl"' not in two.svg()
    assert plots_headline.radar({**table, "rows": table["rows"][:2]}) is None, "two spokes have no area"
    table["rows"][0]["cells"][3] = None
    left = plots_headline.radar(table)
    assert left is not None
    assert f">{table['rows'][0]['title']}<" not in left.svg(), "a line over a gap would lie"


def test_nothing_of_a_figure_is_cut_off(reported: Path, tmp_path: Path) -> None:
    table = json.loads((reported / "table.json").read_text())
    longest = {"rl": ("loss", "pass_rate", "length"), "dpo": ("loss", "accuracy", "lead")}
    curves = {stage: [{"step": n, **dict.fromkeys(keys, 9.0 * n)} for n in range(9)] for stage, keys in longest.items()}
    drawn = [plots.diversity(table), *(plots.curve(stage, "", points) for stage, points in curves.items())]
    for one in drawn:
        assert one is not None
        (path,) = one.save(tmp_path, ["png"])
        with Image.open(path) as image:
            solid = image.getchannel("A").getbbox()
            assert solid is not None
            assert 0 < solid[0] < solid[2] < image.width, one.name
            assert 0 < solid[1] < solid[3] < image.height, one.name


def test_nothing_to_draw_is_no_figure() -> None:
    assert plots_data.times([]) is None
    assert plots_data.tokens([]) is None
    assert plots_data.label_tree("domain", "", []) is None
    assert plots_changes.fates({}, ["a"]) is None
    assert plots_changes.differences([], "d", "", ("a", "b")) is None


def test_branches_without_samples_are_one_line_of_the_tree() -> None:
    def branch(name: str, samples: int) -> dict[str, Any]:
        leaves = [{"name": f"{name} {leaf}", "samples": samples} for leaf in "xy"]
        return {"name": name, "samples": 2 * samples, "l2": leaves}

    tree = plots_data.label_tree("domain", "Domains", [branch("Cars", 1500), branch("Pots", 0)])
    assert tree is not None
    svg = tree.svg()
    assert ">Cars x  1,500<" in svg
    assert "Pots (2 labels, no sample)" in svg
    assert "Pots x" not in svg
