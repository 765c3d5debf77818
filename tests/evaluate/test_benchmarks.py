"""The registry has every row of the paper's Tables 1 and 2, and says how each is asked and scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov.errors import UserError
from open4ov.evaluate import benchmarks
from open4ov.evaluate.benchmarks import read, registry, render

TABLE_1 = {
    "MMStar_en", "MMStar_cn", "MMBench_en", "MMBench_cn", "RealWorldQA", "MathVista_mini", "MathVision", "MMMU",
    "MMMU_pro", "MMLongBench", "DocVQA", "OCRBench", "OCRBenchV2_en", "OCRBenchV2_cn", "AI2D", "InfoVQA", "BLINK",
    "MUIRBench", "MVBench", "VideoMME", "HallusionBench", "CountBench", "MIABench", "HRBench4K", "V*",
}  # fmt: skip
TABLE_2 = {"MMLU", "MMLU-Pro", "GPQA", "SuperGPQA", "AIME24", "MATH500", "IFEval"}


def test_every_row_of_the_papers_tables_is_defined() -> None:
    found = registry().benchmarks.values()
    assert {each.row for each in found if each.table == 1} == TABLE_1
    assert {each.row for each in found if each.table == 2} == TABLE_2


def test_every_entry_names_file_columns_and_prompt() -> None:
    for name, each in registry().benchmarks.items():
        assert each.file, name
        assert each.columns, name
        assert Path(each.file).suffix in (".tsv", ".jsonl"), name
        assert registry().prompt(each.prompt), name
        assert each.judged == (each.type in ("graded", "rubric")), name
        if each.rule == "choice":
            text = render(registry().prompt(each.prompt), "Why?", [("A", "x{y}"), ("B", "z")], "look")
            in_picture = each.prompt == "mcq_in_picture"
            assert in_picture or ("Why?" in text and "x{y}" in text), name


def test_the_prompt_of_choices_is_worded_as_vlmevalkits() -> None:
    text = render(registry().prompt("mcq"), "What is it?", [("A", "cat"), ("B", "dog")], "Look closely.")
    assert text == (
        "Hint: Look closely.\nQuestion: What is it?\nOptions:\nA. cat\nB. dog\n"
        "Please select the correct answer from the options above. \n"
    )
    assert render(registry().prompt("mcq"), "What is it?") == "Question: What is it?\n"
    assert render(registry().prompt("short"), "Who?") == "Who?\nAnswer the question using a single word or phrase."


def test_what_is_filled_in_is_data() -> None:
    assert render("{{ question }}", "{{ 7 * 7 }} {% raw %}") == "{{ 7 * 7 }} {% raw %}"


@pytest.mark.parametrize("template", ["{{ answer }}", "{{ question.__class__.__mro__ }}", "{% if %}"])
def test_a_template_that_asks_for_other_things_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="template"):
        render(template, "x")


def test_a_broken_registry_names_the_key(tmp_path: Path) -> None:
    text = benchmarks.FILE.read_text("utf-8")
    broken = tmp_path / "benchmarks.yaml"
    broken.write_text(text.replace("circular: file", "circular: perhaps", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"benchmarks\.MMBench_EN\.circular"):
        read(broken)
    broken.write_text(text.replace("    prompt: mcq_zh", "    prompt: mcq_fr", 1), encoding="utf-8")
    with pytest.raises(UserError, match="mcq_fr"):
        read(broken)
    broken.write_text("- 1", encoding="utf-8")
    with pytest.raises(UserError, match="no registry"):
        read(broken)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'MMStar'"):
        registry().get("MMSta")
