"""ration.html: one self-contained page about a ratio search, out of ratio.json and the pictures that it names."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from open4ov.images import ImageError
from open4ov.report import plots_ration
from open4ov.store import ImageStore


def page(record: Mapping[str, Any], pictures: ImageStore) -> str:
    """The HTML. Every text is escaped; plot and pictures are inside the page; it asks for nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open4ov.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    chosen = record["candidates"][record["chosen"]]
    return environment.get_template("ration.html.jinja").render(
        record=record,
        last=chosen["trials"][-1],
        curves=Markup(plots_ration.curves(record)),
        failures={
            row: [{**one, "pictures": [_picture(pictures, sha) for sha in one["images"][:2]]} for one in failed]
            for row, failed in record["failures"].items()
        },
    )


def _picture(store: ImageStore, sha: str) -> str | None:
    """The picture as a data URI; None when it is not to be had."""
    try:
        return "data:image/png;base64," + base64.b64encode(store.png(sha)).decode()
    except (ImageError, OSError):
        return None
