"""The command `flashbulb`. Only says what to install where the `cli` extra is missing; the commands are in `_cli_app`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        from flashbulb._cli_app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write("the flashbulb command needs typer and rich: pip install 'flashbulb[cli]'\n")
        raise SystemExit(2) from error
    app()


if __name__ == "__main__":
    main()
