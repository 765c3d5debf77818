"""What the self-contained pages of this project have in common: how a template is filled, and pictures inside of it."""

from __future__ import annotations

import base64

import jinja2

from open4ov.images import ImageError
from open4ov.store import ImageStore


def environment(package: str) -> jinja2.Environment:
    """For the templates beside a package's modules: every text is escaped, and a name that is not there is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def png_uri(png: bytes) -> str:
    """A PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def stored_uri(store: ImageStore, sha: str) -> str | None:
    """A picture of a store as a data URI; None when it is not to be had: a page about samples is of use without it."""
    try:
        return png_uri(store.png(sha))
    except (ImageError, OSError):
        return None
