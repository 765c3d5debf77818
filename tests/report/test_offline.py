"""What the page shows of offline RL."""

from __future__ import annotations

import json
from typing import Any

from PIL import Image

from open4ov.report import page
from open4ov.report.offline import offline
from open4ov.report.pictures import Pictures
from open4ov.sample import Sample, assistant, user
from open4ov.store import write_samples


def pair(number: int, kind: str, image: str | None) -> Sample:
    return Sample(
        id=f"p{number}",
        source="t",
        task="t",
        images=[image] if image else [],
        messages=[user(f"what is <i>{number}</i>?", images=int(image is not None)), assistant("a <good> one")],
        rejected=[assistant("a bad one")],
        extra={"pair": kind},
    )


SUMMARY: dict[str, Any] = {
    "pairs": 7,
    "counts": {"image_normal": 4, "missing_image": 3, "guessed_blind": 5},
    "left_out": {"too_long": 2},
    "attributes": {"politeness": {"pairs": 2, "chosen": 1, "rejected": 1, "equal": 0}},
    "refusal": {
        which: {
            "missing_image": {"asked": 8, "refused": share},
            "with_image": {"asked": 8, "falsely_refused": 0.125, "right": 0.5},
            "text": {"asked": 0, "falsely_refused": None, "right": None},
        }
        for which, share in (("before", 0.0), ("after", 0.875))
    },
    "validation": {
        "first": {"accuracy": 0.25, "chosen_logp_a_token": -2.5},
        "last": {"accuracy": 1.0, "chosen_logp_a_token": -0.25},
    },
}


def test_pairs_and_refusals_are_on_the_page(finished: Any) -> None:
    run = finished
    sha = run.images.put(Image.new("RGB", (8, 8), (1, 2, 3)))
    made = [pair(n, "missing_image", None) for n in range(3)] + [pair(n + 9, "image_normal", sha) for n in range(3)]
    made.append(pair(20, "image_normal", "0" * 64))  # its picture is gone
    write_samples(run.inputs["dpo"] / "pairs.parquet", made)
    (run.inputs["dpo"] / "summary.json").write_text(json.dumps(SUMMARY))
    page.run(run)
    html = (run.out / "report.html").read_text()
    assert html.count('<div class="card preference">') == 4
    assert "what is &lt;i&gt;0&lt;/i&gt;?" in html
    assert "a &lt;good&gt; one" in html
    assert "<th>refused without the picture</th><td>8</td><td>0.0</td><td>87.5</td>" in html
    assert "refused though no picture is needed" not in html
    assert "5 drafts (guessed blind)" in html
    assert "2 too long" in html
    assert "<th>politeness</th><td>2</td><td>1</td><td>1</td><td>0</td>" in html
    assert "-2.50 to" in html


def test_a_run_without_pairs_says_nothing(finished: Any) -> None:
    run = finished
    assert offline(run.inputs, Pictures(run.images)) is None
    assert offline({}, Pictures(run.images)) is None
