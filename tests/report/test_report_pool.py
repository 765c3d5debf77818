"""The report's part on RL's tasks."""

from __future__ import annotations

import re
from pathlib import Path

from open4ov.report.plots_data import distribution, rings
from open4ov.report.pool import nested, pool
from open4ov.sample import Sample, assistant, user
from open4ov.store import write_samples


def test_the_report_tells_what_rl_was_asked(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    part = html[html.index('<h2 id="rl">What RL was asked') : html.index('<h2 id="costs">')]
    assert "20 tasks for 40 prompts" in part
    assert "25.0 % without a" in part
    assert "an &lt;exam&gt;" in part
    assert "an <exam>" not in part
    assert "1,200" in part
    assert "3 cloze among" in part
    assert re.search(r"<td>4 of 5<small>1 rejected</small></td>", part)
    assert "t&lt;sk" in part
    assert "<td>30.0 %</td>" in part


def test_many_values_are_drawn_as_others() -> None:
    shares = {f"d{i}": {"count": 1, "share": 0.1} for i in range(10)}
    assert "others 40" in distribution([("domain", shares)]).svg()


def test_domains_and_their_questions_are_rings(tmp_path: Path) -> None:
    def task(number: int, name: str, extra: dict[str, str]) -> Sample:
        return Sample(
            id=f"s{number}",
            source="t",
            task=name,
            messages=[user("why?"), assistant("so")],
            extra={"pool": extra} if extra else {},
        )

    stem = {"domain": "STEM"}
    made = [task(0, "a_sum", {}), *(task(n, "a_sum" if n < 3 else "chart", stem) for n in range(1, 5))]
    write_samples(tmp_path / "pool.parquet", made)
    found = nested(tmp_path)
    assert found == {"STEM": {"a sum": 2, "chart": 2}, "no domain": {"a sum": 1}}
    drawing = rings(found)
    assert drawing is not None
    svg = drawing.svg()
    assert ">STEM<" in svg
    assert rings({}) is None
    assert nested(tmp_path / "none") == {}


def test_a_run_without_rl_has_no_such_part(tmp_path: Path) -> None:
    assert pool({}) is None
    (tmp_path / "pool.json").write_text('{"wanted": 0, "tasks": 0}')
    assert pool({"rl_pool": tmp_path}) is None


def test_a_pool_without_a_leakage_screen_has_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_text(
        '{"wanted": 4, "tasks": 4, "by": {"source": {"corpora": {"count": 4, "share": 1}}}}'
    )
    found = pool({"rl_pool": tmp_path})
    assert found is not None
    assert found["leakage"] is None  # the template is strict about names
