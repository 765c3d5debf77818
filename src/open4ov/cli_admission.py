"""`open4ov admit`: what may be trained on, and how much of it; each command has a file of its own."""

from __future__ import annotations

import typer

from open4ov import cli_admit_assess, cli_admit_balance, cli_admit_mastery, cli_admit_ration

app = typer.Typer(help="What may be trained on, and how much of it (paper §3.2.2).", no_args_is_help=True)
app.command("assess")(cli_admit_assess.assess)
app.command("balance")(cli_admit_balance.balance)
app.command("mastery")(cli_admit_mastery.mastery)
app.command("ration")(cli_admit_ration.ration)


@app.callback()
def admit() -> None:
    """What may be trained on, and how much of it (paper §3.2.2)."""
