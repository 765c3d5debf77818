"""`open4ov admit`: what may be trained on, and how much of it; each command has a file of its own."""

from __future__ import annotations

import typer

from open4ov.cli_admit_mastery import mastery

app = typer.Typer(help="What may be trained on, and how much of it (paper §3.2.2).", no_args_is_help=True)
app.command()(mastery)


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """A group, however many commands it has."""
