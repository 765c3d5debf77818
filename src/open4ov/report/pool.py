"""What the report tells of RL's tasks: what they are made of (paper Fig. 5), and what of each source was kept out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from open4ov.report import plots_data
from open4ov.run_dir import read_json
from open4ov.store import iter_samples

ROWS = {
    "source": "source",
    "domain": "domain",
    "task": "question",
    "answer": "answer",
    "language": "language",
    "pictures": "with image, or text only",
    "form": "was multiple choice (cloze), or open",
}


def pool(inputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """The contents of pool.json with its drawings; None for a run without RL."""
    figures = read_json(inputs["rl_pool"] / "pool.json") if "rl_pool" in inputs else None
    if not figures or not figures.get("tasks"):
        return None
    rows = [(ROWS[name], parts) for name, parts in figures["by"].items() if name in ROWS]
    drawn = (plots_data.rings(nested(inputs["rl_pool"])), plots_data.distribution(rows))
    return {"leakage": None, **figures, "rows": rows, "drawings": [drawing for drawing in drawn if drawing]}


def nested(folder: Path) -> dict[str, dict[str, int]]:
    """Domain -> question -> tasks of pool.parquet, the most first; empty where there is no such file."""
    path = folder / "pool.parquet"
    counts: dict[str, Counter[str]] = {}
    for sample in iter_samples(path) if path.is_file() else ():
        told: Any = sample.extra.get("pool")
        domain = str(cast("dict[str, Any]", told).get("domain", "")) if isinstance(told, dict) else ""
        counts.setdefault(domain or "no domain", Counter())[sample.task.replace("_", " ") or "no task"] += 1
    order = sorted(counts, key=lambda domain: (-counts[domain].total(), domain))
    return {domain: dict(sorted(counts[domain].items(), key=lambda item: (-item[1], item[0]))) for domain in order}
