"""The tables of SFT's sets and of stage 2's blend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from open4ov.report import page, training_sets


def test_the_sets_and_the_measured_blend_are_told(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    cells = "<td>0123456789abcdef</td><td>1,800</td><td>20</td><td>3 an &lt;empty&gt; answer</td>"
    assert f"<tr><th>SFT-Knowledge</th>{cells}</tr>" in html
    assert html.count("<td>nothing</td>") == 2
    assert "reading &lt;b&gt;<small>ran out: gone through 4 times</small>" in html
    assert "<td>+30.0</td><td>+25.0<small>+10.0 to +40.0</small></td>" in html
    assert "<td>75.0 %</td><td>90,000</td>" in html
    blend = html[html.index('<table id="blend">') :]
    assert blend.index("reading &lt;b&gt;") < blend.index("<th>colour</th>")


def test_a_fixed_blend_has_tokens_only_and_a_run_without_stage_2_no_table(finished: Any) -> None:
    blend = {"blend": "fixed", "abilities": {"colour": {"tokens": 5, "drawn": 1.0}}}
    (finished.inputs["sft_ability"] / "blend.json").write_text(json.dumps(blend))
    page.run(finished)
    html = (finished.out / "report.html").read_text()
    assert "all tasks alike" in html
    assert "<thead><tr><th>ability</th><th>tokens</th></tr></thead>" in html
    assert training_sets.blend({}) is None
    assert training_sets.sets({}) == []
