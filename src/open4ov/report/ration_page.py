"""ration.html: one self-contained page about a ratio search, out of ratio.json and the pictures that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from open4ov import page_fonts, templates
from open4ov.report import plots_ration
from open4ov.store import ImageStore


def page(record: Mapping[str, Any], pictures: ImageStore) -> str:
    """The HTML. Every text is escaped; plot and pictures are inside the page; it asks for nothing else."""
    environment = templates.environment("open4ov.report")
    chosen = record["candidates"][record["chosen"]]
    html = environment.get_template("html/ration.html.jinja").render(
        record=record,
        last=chosen["trials"][-1],
        curves=Markup(plots_ration.curves(record)),
        failures={
            row: [
                {**one, "pictures": [templates.stored_uri(pictures, sha) for sha in one["images"][:2]]}
                for one in failed
            ]
            for row, failed in record["failures"].items()
        },
    )
    return page_fonts.embedded(html)
