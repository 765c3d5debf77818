"""Run directories that are half-written, of another version, damaged, or without their pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_runs import QUESTIONS
from test_page import embedded

from open4ov.errors import UserError
from open4ov.report import content, page
from open4ov.report.found import Found, of_directory

STAGES = ["images", "data", "evaluate_base", "evaluate_dpo", "report"]


@pytest.fixture
def root(finished: Any) -> Path:
    """A run directory with a run.json and everything finished."""
    folder = finished.out.parent
    (folder / "run.json").write_text(json.dumps({"recipe": {"name": "a <test> run"}}))
    for stage in finished.inputs.values():
        record = json.loads((stage / "stage.json").read_text())
        (stage / "stage.json").write_text(json.dumps({**record, "open4ov": "1.2"}))
    return folder


def report(root: Path, expected: list[str] | None = STAGES) -> tuple[str, list[str]]:
    found = of_directory(root, expected, "1.2")
    return page.page(found, content.gather(found)), found.problems


def test_a_whole_run_is_not_partial(root: Path) -> None:
    html, problems = report(root)
    assert problems == []
    assert "This report is partial" not in html


def test_what_is_not_finished_is_named_and_the_rest_is_shown(root: Path) -> None:
    shutil.rmtree(root / "evaluate_dpo")
    (root / "dpo" / "stage.json").unlink()
    html, problems = report(root, [*STAGES, "dpo"])
    (told,) = problems
    assert told.startswith("not finished: evaluate_dpo, dpo; ")
    assert "goes on from there" in told
    assert "<b>This report is partial.</b>" in html
    assert [model["name"] for model in embedded(html)["models"]][-1] == "rl"


def test_stages_stand_in_the_order_of_the_run(root: Path) -> None:
    for stage, inputs in {"sets": ["data"], "data": ["images"], "dpo": ["rl"], "rl": ["sets"]}.items():
        record = json.loads((root / stage / "stage.json").read_text())
        (root / stage / "stage.json").write_text(json.dumps({**record, "inputs": {key: {} for key in inputs}}))
    unknown = list(of_directory(root, None, "1.2").inputs)
    places = [unknown.index(stage) for stage in ("images", "data", "sets", "rl", "dpo")]
    assert places == sorted(places), "each after what it is made from"
    told = ["rl_pool", "images", "data", "sets", "rl", "dpo", "evaluate_dpo"]
    assert list(of_directory(root, told, "1.2").inputs)[: len(told)] == told, "as the recipe has them"
    found = of_directory(root, told, "1.2")
    assert [one["name"] for one in content.gather(found).page["stages"]] == list(found.inputs)


def test_a_run_of_which_nothing_is_finished_has_a_page(root: Path) -> None:
    for stage in root.glob("*/stage.json"):
        shutil.rmtree(stage.parent)
    html, problems = report(root)
    assert "Nothing has been evaluated yet" in html
    assert problems == ["not finished: images, data, evaluate_base, evaluate_dpo; `open4ov run` with the same recipe "
                        "and --out goes on from there"]  # fmt: skip


def test_only_the_base_has_been_evaluated(root: Path) -> None:
    for model in ("sft_knowledge", "sft_ability", "sft_preference", "rl", "dpo"):
        shutil.rmtree(root / f"evaluate_{model}")
    html, _ = report(root)
    assert '<figure id="figure-radar">' in html
    assert '<figure id="figure-changes">' not in html
    assert len(embedded(html)["models"]) == 1


def test_another_version_is_named_with_what_to_do(root: Path) -> None:
    record = json.loads((root / "dpo" / "stage.json").read_text())
    (root / "dpo" / "stage.json").write_text(json.dumps({**record, "open4ov": "0.9"}))
    results = root / "evaluate_dpo" / "results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), "schema": 0}))
    html, problems = report(root, None)
    assert problems[0].startswith("the recipe in run.json is of another version")
    assert problems[0].endswith("into a new --out makes the run anew")
    assert problems[1].startswith("made by open4ov 0.9, this is 1.2: dpo;")
    assert "into a new --out" in problems[1]
    assert "evaluation of dpo" in problems[2]
    assert "schema 0" in problems[2]
    assert "a &lt;test&gt; run" in html
    assert [model["name"] for model in embedded(html)["models"]][-1] == "rl"


def test_missing_pictures_leave_the_questions(root: Path) -> None:
    shutil.rmtree(root / "image-store")
    html, problems = report(root)
    (told,) = problems
    assert "not in image-store" in told
    data = embedded(html)
    assert data["pictures"] == {}
    assert len(data["cases"]) == QUESTIONS
    assert "this picture is not in the page" in html


@pytest.mark.parametrize(
    ("file", "text", "gone"),
    [
        ("data/report.json", "{", "Label coverage"),
        ("data/report.json", '{"coverage": {"domain": [{"l2": 3}]}}', "Label coverage"),
        ("rl_pool/pool.json", '{"tasks": 4}', '<h2 id="rl">What RL was asked'),
        ("sets/summary.json", '{"knowledge": {}}', "What SFT was trained on"),
        ("sft_ability/blend.json", '{"abilities": [1]}', "Stage 2's own tokens"),
        ("rl/curve.json", "null and void", "figure-curve-rl"),
        ("dpo/summary.json", '{"pairs": 3, "counts": 4}', "What offline RL was trained on"),
        ("rl/rollouts.json", '[{"step": 1}]', "What online RL sampled"),
        ("evaluate_dpo/answers.parquet", "no parquet", "lines shown</b>"),
        ("images/stage.json", "[]", "no such text"),
    ],
)
def test_a_damaged_file_costs_its_section_only(root: Path, file: str, text: str, gone: str) -> None:
    (root / file).write_text(text)
    html, problems = report(root)
    assert problems, file
    assert gone not in html
    assert '<table id="results" class="full">' in html


@pytest.mark.parametrize("size", [0, 40, 5000])
def test_a_truncated_file_is_told_with_the_folder_to_delete(root: Path, size: int) -> None:
    path = root / "evaluate_rl" / "answers.parquet"
    path.write_bytes(path.read_bytes()[:size])
    (root / "rl" / "curve.json").write_text('[{"step": 0')
    _, problems = report(root)
    again = "/, and `open4ov run` with the same recipe and --out makes it again"
    answers, curve = problems
    assert answers.startswith("answers of rl: left out")
    assert "(evaluate_rl/answers.parquet is no whole Parquet file)" in answers
    assert answers.endswith(f"; delete the folder evaluate_rl{again}")
    assert curve.startswith("rl/curve.json: left out")
    assert curve.endswith(f"; delete the folder rl{again}")


def test_a_damaged_run_json_says_the_way_on(root: Path) -> None:
    (root / "run.json").write_text("{")
    _, (told,) = report(root, None)
    assert told.startswith("run.json is damaged")
    assert told.endswith("`open4ov run` with the recipe into a new --out makes the run anew")


def test_files_that_stage_json_names_and_that_are_gone(root: Path) -> None:
    record = json.loads((root / "dpo" / "stage.json").read_text())
    files = {"curve.json": {"bytes": 3}, "pairs.parquet": {"bytes": 9}, "model/model.safetensors": {"bytes": 9}}
    (root / "dpo" / "stage.json").write_text(json.dumps({**record, "files": files}))
    _, problems = report(root)
    assert problems == ["dpo/curve.json: has another size than when the stage ended", "dpo/pairs.parquet: missing"]


def test_answers_to_other_questions_are_left_out(root: Path) -> None:
    path = root / "evaluate_dpo" / "answers.parquet"
    rows = pq.read_table(path).to_pylist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    pq.write_table(pa.Table.from_pylist(rows[:-1]), path)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    html, problems = report(root)
    assert "evaluate_dpo asked other questions than base" in problems[0]
    assert [model["name"] for model in embedded(html)["models"]][-1] == "rl"


def test_a_stage_that_refused_says_why(root: Path) -> None:
    (root / "data.failed").mkdir()
    (root / "data.failed" / "failed.json").write_text(json.dumps({"reason": "no sample is left"}))
    _, problems = report(root)
    assert problems == ["data: refused to go on (no sample is left); what it made is in data.failed"]


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        of_directory(tmp_path, None, "1")


def test_the_stage_itself_takes_no_damaged_file(finished: Any) -> None:
    (finished.inputs["rl_pool"] / "pool.json").write_text('{"tasks": 4}')
    with pytest.raises(KeyError):
        page.run(finished)


def test_a_missing_file_is_told_once(root: Path) -> None:
    found = of_directory(root, STAGES, "1.2")
    assert isinstance(found, Found)
    (root / "data" / "report.json").unlink()
    assert found.json("data", "report.json") is None
    assert found.json("data", "report.json") is None
    assert found.json("no_such_stage", "report.json") is None
    assert found.problems == ["data/report.json: missing"]
