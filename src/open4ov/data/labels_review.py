"""The human curation step between expansion and tree (paper §2.2.2): a page to look at, and a CSV to edit.

The CSV has a row for each L2 label, of the tree (`present`) and proposed (`new`). A reviewer fills in `action` and
`target`:

    keep                    the label stays, or enters the tree
    drop                    it does not
    merge    target: id     it becomes part of that L2 label of its axis, which must be kept, renamed or moved
    rename   target: name   it stays under another name
    move     target: L1 id  it goes under that L1, and gets an id there

labels_import.py makes the next tree of it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from open4ov import templates
from open4ov.data.labels import AXES, LabelTree
from open4ov.data.labels_expand import Expanded, Proposed
from open4ov.store import atomic

COLUMNS = ("axis", "l1", "id", "name", "status", "images", "topics", "samples", "merged", "description", "things",
           "abilities", "action", "target", "note")  # fmt: skip
ACTIONS = ("keep", "drop", "merge", "rename", "move")
SAFE = "=+-@\t\r"
"""What a spreadsheet takes for the start of a formula; such a cell is written with a quote before it."""


def rows(tree: LabelTree, expanded: Expanded, coverage: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The review's rows in the tree's order, proposals after what their L1 has."""
    merged: dict[tuple[str, str], list[str]] = {}
    for one in expanded.merged:
        merged.setdefault((one.axis, one.into), []).append(f"{one.name} ({one.reason})")
    counted = {
        (axis, node["id"]): node for axis in AXES for top in (coverage or {}).get(axis, ()) for node in top["l2"]
    }
    found: list[dict[str, str]] = []
    for axis in AXES:
        for l1 in tree.axis(axis):
            new = [one for one in expanded.proposed if one.axis == axis and one.l1 == l1.id]
            for status, label in (*(("present", l2) for l2 in l1.l2), *(("new", one) for one in new)):
                counts = counted.get((axis, label.id))
                found.append({
                    "axis": axis, "l1": l1.id, "id": label.id, "name": label.name, "status": status,
                    **{what: str(counts[what]) if counts else "" for what in ("images", "topics", "samples")},
                    "merged": "; ".join(merged.get((axis, label.id), ())),
                    "description": label.description if isinstance(label, Proposed) else "",
                    "things": "; ".join(label.things), "abilities": "; ".join(label.abilities),
                    "action": "keep" if status == "present" else "", "target": "", "note": "",
                })  # fmt: skip
    return found


def write(folder: Path, tree: LabelTree, expanded: Expanded, coverage: Mapping[str, Any] | None = None) -> Path:
    """Writes review.csv, and review.html beside it, and gives the CSV. A proposal's action is empty: someone has to
    decide. A CSV that is there and differs may hold somebody's work: it stays, and the new one is review-2.csv, ..."""
    table = rows(tree, expanded, coverage)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_shown(row[name]) for name in COLUMNS] for row in table)
    content = buffer.getvalue().encode("utf-8-sig")  # the mark makes spreadsheets read UTF-8
    numbers = count(2)
    file = folder / "review.csv"
    while file.exists() and file.read_bytes() != content:
        file = folder / f"review-{next(numbers)}.csv"
    with atomic(file) as path:
        path.write_bytes(content)
    environment = templates.environment("open4ov.data")
    page = environment.get_template("labels_review.html.jinja").render(
        version=tree.version,
        axes=[(axis, [(l1, [r for r in table if (r["axis"], r["l1"]) == (axis, l1.id)]) for l1 in tree.axis(axis)])
              for axis in AXES],
        merged=expanded.merged, refused=expanded.refused, others=(coverage or {}).get("others", ()), actions=ACTIONS,
    )  # fmt: skip
    with atomic(file.with_suffix(".html")) as path:
        path.write_text(page, encoding="utf-8")
    return file


def _shown(cell: str) -> str:
    return f"'{cell}" if cell.startswith(tuple(SAFE)) else cell
