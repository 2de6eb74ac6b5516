"""The `quicdist` command, one module a subcommand."""

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def _quicdist() -> None:
    pass


def main() -> None:
    """Runs the command line."""
    app()
