"""From a folder to a listening server, and its graceful end."""

import gc
import os
import signal
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepwell.display import say
from stepwell.errors import MissingPackage, StepwellError
from stepwell.server.limits import Limits, is_loopback

TOKEN = "STEPWELL_TOKEN"
"""The environment variable that holds the token."""
LEAST = 16
"""Characters of a token, at least."""


def read_token(variable: str = TOKEN, file: Path | None = None) -> str | None:
    """Return the token from a file, or else from an environment variable; None where neither gives one."""
    try:
        found = os.environ.get(variable) if file is None else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StepwellError(f"can't read the token from {file} ({error}).") from error
    if found is None:
        return None
    token, source = found.strip(), file or f"the environment variable {variable}"
    if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise StepwellError(
            f"the token from {source} is no good: it needs at least {LEAST} characters, printable ASCII without "
            "blanks, or it is guessed. Make one: python -c 'import secrets; print(secrets.token_urlsafe())'."
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not listening yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise StepwellError(
            f"can't listen on {host}:{port} ({error.strerror or error}): another program may have it, or the host is "
            "not this machine's. Choose another with --port or --host."
        ) from error
    return bound


def serve(
    place: str | Path,
    *,
    collection: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    limits: Limits | None = None,
    systems: Sequence[str] = (),
    threads: int | None = None,
    browse: bool = False,
) -> None:
    """Serve a finished run, an index or a model until SIGINT or SIGTERM; requests under way are answered first."""
    if token is None and not is_loopback(host):
        raise StepwellError(
            f"--host {host} lets other machines in, and without a token anyone there reads the whole collection. Put a "
            f"token into {TOKEN} or a file for --token-file; or leave --host out, which serves this machine alone."
        )
    try:
        import uvicorn

        from stepwell.server.app import make_app
        from stepwell.server.protocol import guarded
    except ImportError as error:
        raise MissingPackage(
            f"serving needs the package {error.name}, which is not installed: pip install 'stepwell[serve]'.",
            str(error.name),
            "serve",
        ) from error
    import torch

    from stepwell.server.systems import STUDENT, open_systems

    limits = limits or Limits()
    if threads is not None:
        torch.set_num_threads(threads)
    with listen(host, port) as bound:
        opened = open_systems(Path(place), collection, systems)
        opened.by_name[STUDENT].searcher.search("ready?")  # what can't be read is said now, and the first user is quick
        bound.listen(2048)
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        say(f"{opened.collection.name}: {opened.collection.n_passages:,} passages, {', '.join(opened.by_name)}.")
        say(f"Search at {url}/ (Ctrl-C ends it).")
        if browse:
            webbrowser.open(url)
        app: Any = make_app(opened, limits, token)
        config = uvicorn.Config(
            app,
            http=guarded(limits),
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=30,
        )
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it for garbage would hold up everybody for 0.3 s
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what it was sent, when all is done
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[bound])
    say("Stopped: every request that had come in was answered.")
