"""Whole evaluations: figures, resume, kills, endpoints that fail, judges; with models that say what the test wants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from endpoint import Raw, completion, endpoint, serving
from eval_files import Says, jsonl, mcq, tsv

from open4ov.errors import UserError
from open4ov.evaluate.answer_book import AnswerBook
from open4ov.evaluate.answering import Endpoint, Here
from open4ov.evaluate.benchmarks import registry
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Item
from open4ov.evaluate.judging import SetJudge
from open4ov.evaluate.metrics import wilson
from open4ov.evaluate.plan_eval import Wanted, plan
from open4ov.evaluate.set_eval import Plan, evaluate
from open4ov.recipe_providers import BudgetSection, ProviderSection


def chosen(path: Path, kind: str = "mcq", **options: Any) -> Plan:
    known = registry()
    entry = known.benchmarks.get(kind) or known.of_type("own", kind, path.suffix == ".jsonl")  # type: ignore[arg-type]
    return Plan([FileSuite("own", entry, path, known.prompt(entry.prompt), **options)])


def first(item: Item) -> str:
    return "A"


def test_figures_of_a_choice(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", mcq(6))
    results = evaluate(chosen(path), Says(first), tmp_path / "out")
    row = results["suites"]["own"]
    assert (row["items"], row["scored"], row["questions"], row["clusters"]) == (6, 6, 6, 3)
    assert row["score"] == 0.5
    assert row["lowest"] == 0.5
    assert not row["partial"]
    assert row["categories"] == {"kind 0": {"score": 1.0, "questions": 3}, "kind 1": {"score": 0.0, "questions": 3}}
    assert row["prompt"] == registry().prompt("mcq")
    assert row["rule"] == "choice"
    assert not results["partial"]
    assert results["asked"] == 6
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == results
    kept = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert all("Options:\nA. " in each["prompt"] for each in kept)


def test_independent_items_have_wilsons_interval(tmp_path: Path) -> None:
    rows = [{"index": str(n), "question": f"q{n}", "answer": "yes" if n < 3 else "no"} for n in range(8)]
    row = evaluate(chosen(tsv(tmp_path / "x.tsv", rows), "yes_no"), Says(lambda _: "Yes."), tmp_path / "out")
    found = row["suites"]["own"]
    wanted = wilson(3, 8)
    assert found["score"] == pytest.approx(wanted.value)
    assert found["low"] == pytest.approx(wanted.low, abs=1e-6)


def test_a_second_call_asks_nothing_again(tmp_path: Path) -> None:
    path, model = tsv(tmp_path / "x.tsv", mcq(6)), Says(first)
    before = evaluate(chosen(path), model, tmp_path / "out")
    after = evaluate(chosen(path), model, tmp_path / "out")
    assert model.asked == 6
    assert (after["asked"], after["kept"]) == (0, 6)
    assert after["suites"] == before["suites"]


def test_what_changes_a_question_asks_it_anew(tmp_path: Path) -> None:
    path, model = tsv(tmp_path / "x.tsv", mcq(4)), Says(first)
    evaluate(chosen(path), model, tmp_path / "out")
    rows = mcq(4)
    rows[2]["question"] = "Another?"
    assert evaluate(chosen(tsv(path, rows)), model, tmp_path / "out")["asked"] == 1
    assert evaluate(chosen(path, max_tokens=9), model, tmp_path / "out")["asked"] == 4
    assert evaluate(chosen(path), Says(first, "another"), tmp_path / "out")["asked"] == 4


def test_a_mended_reference_is_scored_anew_without_asking(tmp_path: Path) -> None:
    path, model = tsv(tmp_path / "x.tsv", mcq(4)), Says(first)
    assert evaluate(chosen(path), model, tmp_path / "out")["suites"]["own"]["score"] == 0.5
    mended = [{**row, "answer": "A"} for row in mcq(4)]
    again = evaluate(chosen(tsv(path, mended)), model, tmp_path / "out")
    assert again["suites"]["own"]["score"] == 1.0
    assert again["asked"] == 0


def test_equal_questions_are_asked_once_and_counted_each(tmp_path: Path) -> None:
    rows = [{**mcq(1)[0], "index": str(number), "answer": "AB"[number % 2]} for number in range(4)]
    model = Says(first)
    row = evaluate(chosen(tsv(tmp_path / "x.tsv", rows)), model, tmp_path / "out")["suites"]["own"]
    assert (model.asked, row["questions"], row["clusters"], row["score"]) == (1, 4, 1, 0.5)


def test_a_stopped_evaluation_is_partial_and_goes_on(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", mcq(6))
    results = evaluate(chosen(path), Says(first, stops=2), tmp_path / "out")
    row = results["suites"]["own"]
    assert results["partial"]
    assert row["partial"]
    assert results["stopped"] == "the endpoint went away"
    assert (row["items"], row["answered"], row["scored"]) == (6, 2, 2)
    assert row["lowest"] == pytest.approx(row["score"] * 2 / 6, abs=1e-6)
    model = Says(first)
    assert not evaluate(chosen(path), model, tmp_path / "out")["partial"]
    assert model.asked == 4


def test_rows_that_cannot_be_asked_are_listed_not_counted_as_wrong(tmp_path: Path) -> None:
    rows = mcq(4)
    rows[0]["image"], rows[2]["answer"] = "!" * 100, "Q"
    path = tsv(tmp_path / "x.tsv", rows)
    row = evaluate(chosen(path), Says(lambda _: "B"), tmp_path / "out")["suites"]["own"]
    assert row["score"] == 1
    assert row["items"] == 2
    assert row["partial"]
    assert row["lowest"] == 0.5
    assert row["faults"]["count"] == 2
    assert row["faults"]["first"][0]["place"] == f"{path}, line 2"


def test_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    path, model = tsv(tmp_path / "x.tsv", mcq(4)), Says(first)
    evaluate(chosen(path), model, tmp_path / "out")
    book = tmp_path / "out" / "answers.jsonl"
    book.write_bytes(book.read_bytes()[:-25])
    assert evaluate(chosen(path), model, tmp_path / "out")["asked"] == 1
    assert evaluate(chosen(path), model, tmp_path / "out")["asked"] == 0
    assert AnswerBook(tmp_path / "out").torn == 1


def test_circular_is_right_only_in_all_rotations(tmp_path: Path) -> None:
    """Who always says A is right in one rotation of each question, and in all of none."""
    path = tsv(tmp_path / "x.tsv", mcq(4))
    asked = chosen(path, rotate=True)
    asked.rotated = True
    row = evaluate(asked, Says(first), tmp_path / "out")["suites"]["own"]
    assert (row["items"], row["questions"], row["score"], row["single"]) == (8, 4, 0.0, 0.5)

    def right(item: Item) -> str:
        return next(letter for letter, text in item.options.items() if text == "this one")

    row = evaluate(asked, Says(right, "right"), tmp_path / "out")["suites"]["own"]
    assert row["score"] == 1.0
    row = evaluate(asked, Says(right, "halting", stops=3), tmp_path / "out")["suites"]["own"]
    assert row["questions"] == 1
    assert row["partial"]


def test_hallusion_bench_by_item_figure_and_question(tmp_path: Path) -> None:
    rows = [
        {
            **mcq(1)[0],
            "index": f"x_y_z_0_{figure}_{question}",
            "question": f"Is it so, {figure} {question}?",
            "category": "VD",
            "l2-category": "chart",
            "answer": "Yes",
        }
        for figure in (0, 1)
        for question in (0, 1)
    ]
    path = tsv(tmp_path / "x.tsv", rows)
    said = iter(["Yes", "Yes", "Yes", "No"])
    row = evaluate(chosen(path, "HallusionBench"), Says(lambda _: next(said)), tmp_path / "out")["suites"]["own"]
    assert row["parts"] == {"aAcc": 0.75, "fAcc": 0.5, "qAcc": 0.5}
    assert row["score"] == pytest.approx((0.75 + 0.5 + 0.5) / 3, abs=1e-6)


def test_several_samples_give_pass_at_k(tmp_path: Path) -> None:
    rows = [{"question": f"{n}+1", "answer": str(n + 1)} for n in range(4)]
    path = jsonl(tmp_path / "x.jsonl", rows)
    row = evaluate(chosen(path, "boxed", samples=3), Says(lambda i: "\\boxed{1}"), tmp_path / "out")["suites"]["own"]
    assert row["responses"] == 12
    assert row["pass_at"] == {"1": 0.25, "3": 0.25}


def test_a_judged_set_without_a_judge_is_not_run(tmp_path: Path) -> None:
    path, model = jsonl(tmp_path / "x.jsonl", [{"question": "q", "answer": "a"}]), Says(lambda _: "a")
    results = evaluate(chosen(path, "graded"), model, tmp_path / "out")
    assert results["suites"] == {}
    assert results["not_run"]["own"].startswith("needs a judge")
    assert model.asked == 0


def judge_at(url: str, place: Path, tokens: int | None = None) -> SetJudge:
    settings = ProviderSection(
        kind="openai", base_url=url, model="judge", api_key_env="TEST_KEY", concurrency=2, retries=0, max_tokens=64
    )
    return SetJudge(settings, BudgetSection(tokens=tokens), place)


def test_a_judge_scores_and_its_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = jsonl(tmp_path / "x.jsonl", [{"question": f"q{n}", "answer": f"a{n}"} for n in range(4)])

    def reply(body: dict[str, Any], _: int) -> str:
        text = str(body["messages"][0]["content"])
        score = "null" if "a3" in text else "1" if "a0" in text or "a1" in text else "0"
        return f'{{"score": {score}, "reason": "so"}}'

    with endpoint(reply) as server:
        for _ in range(2):
            results = evaluate(
                chosen(path, "graded"), Says(lambda _: "x"), tmp_path / "out", judge_at(server.url, tmp_path / "out")
            )
            row = results["suites"]["own"]
            assert row["score"] == pytest.approx(2 / 3, abs=1e-6)
            assert row["scored"] == 3
            assert row["partial"]
            assert "cannot tell" in row["unjudged"]["first"][0]
        assert len(server.bodies) == 4  # the second time all verdicts were kept
    assert results["judge"]["judge"].startswith("judge at ")


def test_a_rubric_is_weighted_and_its_count_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    rows = [{"index": "1", "image": mcq(1)[0]["image"], "question": "Do two things",
             "components": "['one', 'two']", "component_weight": "[3, 1]"}]  # fmt: skip
    path = tsv(tmp_path / "x.tsv", rows)
    replies = ['{"scores": [1], "reason": "r"}', '{"scores": [1, 0], "reason": "r"}']
    with endpoint(lambda _, number: replies[number]) as server:
        judge = judge_at(server.url, tmp_path / "out")
        results = evaluate(chosen(path, "MIABench"), Says(lambda _: "x"), tmp_path / "out", judge)
        assert results["suites"]["own"]["score"] == 0.75
        assert len(server.bodies) == 2


def test_a_judges_budget_ends_the_judging_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = jsonl(tmp_path / "x.jsonl", [{"question": f"q{n}", "answer": "a"} for n in range(70)])
    with endpoint(lambda *_: Raw(completion('{"score": 1, "reason": "r"}', usage=(500, 20)))) as server:
        judge = judge_at(server.url, tmp_path / "out", tokens=36_000)
        row = evaluate(chosen(path, "graded"), Says(lambda _: "x"), tmp_path / "out", judge)["suites"]["own"]
    assert row["partial"]
    assert 0 < row["scored"] < 70
    assert "data.budget.tokens" in row["unjudged"]["first"][0]


def remote(url: str, **more: Any) -> Endpoint:
    settings = {"retries": 0, "concurrency": 3, "timeout": 20.0, **more}
    return Endpoint(ProviderSection(kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", **settings))


def test_an_endpoint_is_asked_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = tsv(tmp_path / "x.tsv", mcq(6))
    with endpoint(lambda *_: "The answer is B.") as server:
        results = evaluate(chosen(path), remote(server.url), tmp_path / "out")
        again = evaluate(chosen(path), remote(server.url), tmp_path / "out")
        assert len(server.bodies) == 6
    assert results["suites"]["own"]["score"] == 0.5
    assert again["asked"] == 0
    content = server.bodies[0]["messages"][0]["content"]
    assert content[0]["type"] == "image_url"
    assert "Options:\nA. " in content[1]["text"]
    assert server.bodies[0]["temperature"] == 0


def test_an_item_that_an_endpoint_refuses_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = tsv(tmp_path / "x.tsv", mcq(6))

    def reply(body: dict[str, Any], _: int) -> str | int:
        return 400 if "number 3" in str(body["messages"]) else "A"

    with endpoint(reply) as server:
        results = evaluate(chosen(path), remote(server.url), tmp_path / "out")
    row = results["suites"]["own"]
    assert results["partial"]
    assert row["answered"] == 5
    assert row["items"] == 6
    assert row["faults"]["first"][0]["place"].endswith("line 5")
    assert "HTTP 400" in row["faults"]["first"][0]["reason"]


def test_an_endpoint_that_refuses_everything_ends_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = tsv(tmp_path / "x.tsv", mcq(40))
    with endpoint(lambda _, number: 401 if number >= 5 else "A") as server:
        results = evaluate(chosen(path), remote(server.url, concurrency=1), tmp_path / "out")
        assert len(server.bodies) < 20
    assert "HTTP 401" in results["stopped"]
    assert results["partial"]
    assert results["suites"]["own"]["answered"] == results["asked"] == 5


def test_cut_and_empty_responses_are_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = tsv(tmp_path / "x.tsv", mcq(2))
    replies = [Raw(completion("A, since", finish="length")), Raw(completion(None))]
    with endpoint(lambda _, number: replies[number]) as server:
        row = evaluate(chosen(path), remote(server.url, concurrency=1), tmp_path / "out")["suites"]["own"]
    assert (row["responses"], row["cut"], row["empty"]) == (2, 1, 1)
    assert not row["partial"]


def test_the_engine_and_its_own_server_say_the_same(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    path = tsv(tmp_path / "x.tsv", mcq(4))
    asked = chosen(path, max_tokens=6)
    evaluate(asked, Here(tiny_dir), tmp_path / "here")
    with serving(tiny_dir, "m") as url:
        evaluate(asked, remote(url), tmp_path / "there")

    def said(folder: str) -> dict[str, list[str]]:
        lines = (tmp_path / folder / "answers.jsonl").read_text().splitlines()
        return {each["id"]: each["responses"] for each in map(json.loads, lines)}

    assert said("here") == said("there")
    assert len(said("here")) == 4


def test_a_picture_that_cannot_be_read_does_not_stop_the_engine(tmp_path: Path, tiny_dir: Path) -> None:
    rows = mcq(3)
    rows[1]["image"] = rows[1]["image"][:80]  # base64 of half a picture
    path = tsv(tmp_path / "x.tsv", rows)
    row = evaluate(chosen(path, max_tokens=4), Here(tiny_dir), tmp_path / "out")["suites"]["own"]
    assert row["answered"] == 2
    assert row["faults"]["first"][0]["place"].endswith("line 3")


def test_built_in_sets_by_group(tmp_path: Path, tiny_dir: Path) -> None:
    wanted = plan(Wanted(suites=("more", "text"), items=2))
    results = evaluate(wanted, Here(tiny_dir), tmp_path / "out")
    assert set(results["groups"]) == {"more", "text"}
    assert set(results["suites"]) == {"several", "clips", "reading_zh", "photographs", "arithmetic", "instruction"}
    assert evaluate(wanted, Here(tiny_dir), tmp_path / "out")["asked"] == 0


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from eval_files import Says
from open4ov.evaluate.set_eval import evaluate
from test_set_eval import chosen
def slowly(item):
    time.sleep(0.05)
    return "A"
evaluate(chosen(Path(sys.argv[1])), Says(slowly), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    path, out = tsv(tmp_path / "x.tsv", mcq(200)), tmp_path / "out"
    here = Path(__file__).parent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(out), str(here)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])},
    )
    book = out / "answers.jsonl"
    while child.poll() is None and (not book.exists() or book.read_bytes().count(b"\n") < 5):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = book.read_bytes().count(b"\n")
    assert 5 <= kept < 200
    model = Says(first)
    results = evaluate(chosen(path), model, out)
    assert results["kept"] == kept
    assert model.asked == 200 - kept
    assert not results["partial"]


def test_an_evaluation_in_use_is_refused(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", mcq(2))

    def again(item: Item) -> str:
        with pytest.raises(UserError, match="in use"):
            evaluate(chosen(path), Says(first), tmp_path / "out")
        return "A"

    evaluate(chosen(path), Says(again), tmp_path / "out")
