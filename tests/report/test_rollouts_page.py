"""The report shows what online RL sampled in its first and last step."""

from __future__ import annotations

import json
from typing import Any

from PIL import Image

from open4ov.report import page, rollouts
from open4ov.report.pictures import Pictures


def group(pictures: list[str], **changes: object) -> dict[str, Any]:
    responses = [
        {"text": "<i>7</i>", "correct": 1.0, "advantage": 1.25, "diversity": None, "tokens": 3, "finish": "stop"},
        {"text": "", "correct": 0.0, "advantage": -0.5, "diversity": 0.1, "tokens": 9, "finish": "length"},
        {"text": "a a a", "correct": 0.0, "advantage": -0.75, "diversity": 0.1, "tokens": 9, "finish": "repetition"},
    ]
    about = {"sample": "s", "task": "word_problem", "pictures": pictures, "prompt": "How <b>many</b>?"}
    return {**about, "reference": "7", "dead": False, "responses": responses, **changes}


def test_prompts_pictures_responses_and_advantages(finished: Any) -> None:
    picture = finished.images.put(Image.new("RGB", (40, 30), "red"))
    steps = [
        {"step": 1, "phase": "pass_at_k", "groups": [group([picture]), group([], dead=True)]},
        {"step": 24, "phase": "diversity", "groups": [group([])]},
    ]
    (finished.inputs["rl"] / "rollouts.json").write_text(json.dumps(steps))
    page.run(finished)
    html = (finished.out / "report.html").read_text()
    assert "Step 1, Pass@k" in html
    assert "Step 24, diversity-weighted Pass@1" in html
    assert html.count("How &lt;b&gt;many&lt;/b&gt;?") == 3
    sampled = html[html.index("What online RL sampled") : html.index("What SFT was trained on")]
    assert sampled.count('alt="picture of the question"') == 1
    assert "&lt;i&gt;7&lt;/i&gt;" in html
    assert "<i>7</i>" not in html
    assert html.count("✓ advantage +1.25, 3 tokens<") == 3
    assert html.count("✗ advantage -0.50, diversity 0.10, 9 tokens, cut off") == 3
    assert html.count("9 tokens, stopped as a loop") == 3
    assert html.count("word problem: all advantages are zero") == 1


def test_a_run_without_them_has_no_such_part(finished: Any) -> None:
    assert rollouts.steps(finished.inputs, Pictures(finished.images)) == []
    assert rollouts.steps({}, Pictures(finished.images)) == []
    page.run(finished)
    assert "What online RL sampled" not in (finished.out / "report.html").read_text()
