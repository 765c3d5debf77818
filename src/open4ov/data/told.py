"""What data construction tells at its end: the report, of what every step has left, and the images that fell out."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from open4ov.data import conversations, coverage, density_evidence, general_set, report
from open4ov.data.task import FALLEN
from open4ov.data.working import Counts, Listed, add
from open4ov.mllm import costs

if TYPE_CHECKING:
    from open4ov.data.assemble import Construction


def gather(done: Construction, judged: int, barren: list[dict[str, str]]) -> dict[str, Any]:
    """The report. `judged`: chunks that were judged; `barren`: pairs of labels without topics."""
    matched: Counts = {"images": 0, "coverage": {}, "faults": {}}
    written: Counts = {"budgets": {}, "measured": [], "synthesis": {}, "unclean": {}}
    found: Counts = {"counts": {}, "coverage": {}}
    borne: list[dict[str, Any]] = []
    came, talks = Counter[str](), cast("Counts", {})
    for facts in done.work.every("clean", done.chunks):
        add(talks, facts["conversations"])
        add(written["unclean"], facts["unclean"])
    for facts in done.work.every("match", done.chunks):
        add(matched, {name: facts[name] for name in matched})
        done.took(facts)
    for facts in chain(
        done.work.every("fine", done.chunks if done.wished else 0),
        done.work.every(general_set.STEP, done.ranked),
    ):
        done.took(facts)
    for facts in done.work.every("write", done.chunks):
        add(written, {name: facts[name] for name in written})
        came["judged"] += facts["came"]
        done.took(facts)
        borne.append(facts["borne"])
    for facts in done.work.every("judge", judged):
        add(found, {name: facts[name] for name in found})
        came["kept"] += facts["came"]
        done.took(facts)
        borne.append(facts["borne"])
    tree, tree_topics, asker = done.tools.tree, done.tools.topics, done.tools.asker
    figures = report.figures(
        matched["images"], done.ids, written["budgets"], found["counts"], tree, len(tree_topics),
        skipped(done), barren,
    )  # fmt: skip
    figures["labels"]["ranking_faults"] = dict(sorted(matched["faults"].items()))
    figures["coverage"] = coverage.figures(tree, matched["coverage"], tree_topics, found["coverage"])
    scored, measured = [a for a, _ in written["measured"]], [b for _, b in written["measured"]]
    figures["density"]["second_opinion"] = density_evidence.agreement(scored, measured)
    if done.pairs is not None:
        figures["density"]["total_pairs"] = {"asked": done.section.total_pairs, "shared_out": done.pairs}
    figures["synthesis"] = report.synthesis(written["synthesis"])
    figures["panel"] = report.panel_figures(found["counts"])
    if talks["given"]:
        figures["conversations"] = conversations.figures(talks, came["judged"], came["kept"])
    figures["undecided"] = found["counts"].get("undecided", 0)
    figures["unanswered"] = report.unanswered(done.missed)
    if asking := asker.report():
        figures["asking"] = asking
    if known := costs.figures(done.account.totals(), **costs.merged(borne)):
        figures["costs"] = known
    figures["cost_per_kept"] = costs.per_kept(known, figures["counts"]["kept"])
    if done.general_labels:
        figures["general_labels"] = done.general_labels
    if done.wished:
        figures["feedback"] = done.wished.figures(done.chunks, judged, figures["synthesis"]["dropped"])
    report.add_hygiene(figures, done.clean.report, done.total, written["unclean"])
    return figures


def skipped(done: Construction) -> Listed:
    """All images that fell out, by reason and then in their order."""
    count = 0
    files = {why: done.work.root / "skipped" / f"{why}.jsonl" for why in FALLEN}
    files["licence"].parent.mkdir(parents=True, exist_ok=True)
    open_files = {why: path.open("w", encoding="utf-8") for why, path in files.items()}
    try:
        every = (facts["skipped"] for step in ("clean", "match", "write")
                 for facts in done.work.every(step, done.chunks))  # fmt: skip
        for fallen in chain((done.fallen,), every):
            for why, entries in fallen.items():
                for entry in entries:
                    open_files[why].write(json.dumps(entry, ensure_ascii=False) + "\n")
                    count += 1
    finally:
        for file in open_files.values():
            file.close()
    return Listed(list(files.values()), count)
