"""The commands of a review by experts: `data view` and `data reviewed`; parse, call, print."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError

app = typer.Typer()


@app.command()
def view(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="a run directory, its rl_pool, or a folder with samples.parquet")
    ],
    reviewer: Annotated[
        str | None, typer.Option(help="whose decisions they are (the user's name, if not given)")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8300,
) -> None:
    """Look at samples, their pictures, labels and votes, and accept, fix or reject them, in a page on this machine."""
    import socket

    import uvicorn

    from open4ov.review.collection import Collection
    from open4ov.review.decisions import Reviewer
    from open4ov.review.server import create_app

    collection = Collection(directory)
    said = Reviewer(collection.reviews, reviewer or getpass.getuser())
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        raise UserError(f"--port {port}: is taken, or may not be used; give another, or 0 for any") from None
    server = uvicorn.Server(uvicorn.Config(create_app(collection, said), log_level="warning"))
    print(
        f"open4ov: {len(collection.samples)} samples at http://127.0.0.1:{taken.getsockname()[1]}/; decisions in "
        f"{said.path}; Ctrl-C ends it",
        file=sys.stderr,
    )
    server.run([taken])


@app.command()
def reviewed(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="what was reviewed")],
    out: Annotated[Path, typer.Option(help="a new folder for the set as the reviewers want it")],
    reviewer: Annotated[list[str] | None, typer.Option(help="whose decisions count (all, if not given)")] = None,
) -> None:
    """Write the set without what was rejected, with what was fixed, and the agreement of its reviewers."""
    from open4ov.review.apply import apply

    print(json.dumps(apply(directory, out, reviewer or ()), ensure_ascii=False, indent=1))
