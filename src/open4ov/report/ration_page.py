"""ration.html: one self-contained page about a ratio search, out of ratio.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from open4ov.report import plots_ration


def page(record: Mapping[str, Any]) -> str:
    """The HTML. Every text is escaped; the plot is inside the page; it asks for nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open4ov.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    chosen = next(one for one in record["candidates"] if one["name"] == record["name"])
    return environment.get_template("ration.html.jinja").render(
        record=record, chosen=chosen, last=chosen["trials"][-1], curves=Markup(plots_ration.curves(record))
    )
