"""`moescope app`: the explorer in the browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

SETTINGS = {
    "server.address": "127.0.0.1",
    "browser.gatherUsageStats": "false",
    "server.enableXsrfProtection": "true",
    "server.enableCORS": "true",
    "client.toolbarMode": "minimal",
    "server.showEmailPrompt": "false",
    # With it goes a card of Streamlit's that would lie over the page's upper right corner.
    "logger.hideWelcomeMessage": "true",
}


@click.command("app")
@click.argument("trace", required=False)
@click.option(
    "--library", type=click.Path(file_okay=False), metavar="DIR", help="Folder whose traces are listed."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="On 127.0.0.1.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def app_command(trace: str | None, library: str | None, port: int, no_browser: bool) -> None:
    """Open the explorer, on a trace or on the bundled sample.

    \b
    Example:
      moescope app my-trace
    """
    environment = dict(os.environ)
    if trace is not None:
        from ...store import open_trace

        open_trace(trace)
        environment["MOESCOPE_TRACE"] = trace if "://" in trace else str(Path(trace).absolute())
    if library is not None:
        environment["MOESCOPE_LIBRARY"] = str(Path(library).absolute())
    folder = Path(__file__).parent.parent
    settings = {**SETTINGS, "server.port": str(port), "server.headless": str(no_browser).lower()}
    command = [sys.executable, "-m", "streamlit", "run", str(folder / "main.py")]
    command += [word for name, value in settings.items() for word in (f"--{name}", value)]
    click.echo(f"moescope on http://127.0.0.1:{port}", err=True)
    # Streamlit looks for the theme in its working folder.
    done = subprocess.run(command, env=environment, cwd=folder)
    if done.returncode not in (0, -2):
        raise click.ClickException(f"the app ended with code {done.returncode}")
