"""The commands of data admission, `open4ov admit ...`: each in a file of its own, put together here."""

from __future__ import annotations

import typer

from open4ov import cli_admit_assess

app = typer.Typer(help="Data admission: what may be trained on, and how much of it.", no_args_is_help=True)


@app.callback()
def admit() -> None:
    """Data admission: what may be trained on, and how much of it."""


app.command("assess")(cli_admit_assess.assess)
