"""The command line: one file a group of verbs, without logic; what a verb needs is imported when it runs."""

from __future__ import annotations

import errno
import os
import sys
import warnings

import typer

from stepwell.cli import ablate, begin, climb, data, export, index, judge, report, search, serve
from stepwell.cli.app import app
from stepwell.display import warn
from stepwell.errors import StepwellError
from stepwell.files import DISK_FULL

__all__ = ["ablate", "app", "begin", "climb", "data", "export", "index", "judge", "main", "report", "search", "serve"]


def _explain(error: OSError) -> str:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in DISK_FULL:
        return (
            f"the disk is full{where}. What is finished is safe; make room and run the same command again: it goes on."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to read or write{where} ({error.strerror}). Choose another folder, or change its rights."
    return f"the system refused{where}: {error.strerror or error}. Nothing was overwritten; mend that and run again."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if isinstance(message, UserWarning):
        warn(str(message))


def main() -> None:
    """Run the command line; mistakes of a user become one paragraph and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _show_warning
    try:
        app()
    except StepwellError as error:
        typer.echo(f"stepwell: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"stepwell: {_explain(error)}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # 130 is what Typer makes of Ctrl-C
            raise
        typer.echo("stepwell: stopped. What is finished is kept; the same command goes on from here.", err=True)
        sys.exit(130)
