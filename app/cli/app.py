"""`moescope app`: the explorer in the browser, for one person or, with --host, for a team."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ...tracer.serve.binding import is_loopback
from ...tracer.serve.token_file import TokenError, read_token, write_token
from .. import TOKEN

SETTINGS = {
    "browser.gatherUsageStats": "false",
    "server.enableXsrfProtection": "true",
    "server.enableCORS": "true",
    "client.toolbarMode": "minimal",
    "server.showEmailPrompt": "false",
    # With it goes a card of Streamlit's that would lie over the page's upper right corner.
    "logger.hideWelcomeMessage": "true",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("app")
@click.argument("trace", required=False)
@click.option(
    "--library", type=click.Path(file_okay=False), metavar="DIR", help="Folder whose traces are listed."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="Port to listen on."
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Address to listen on. Anything but loopback asks every visitor for a token.")  # fmt: skip
@click.option("--public-name", "names", multiple=True, metavar="NAME",
              help="Host name of a proxy before the app; asks for a token. May be given again.")  # fmt: skip
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="File with the access token; created where it is missing. Asks for it on loopback too.")  # fmt: skip
def app_command(
    trace: str | None,
    library: str | None,
    port: int,
    no_browser: bool,
    host: str,
    names: tuple[str, ...],
    token_file: Path | None,
) -> None:
    """Open the explorer, on a trace or on the bundled sample.

    \b
    Example:
      moescope app my-trace
      moescope app --host 0.0.0.0 --public-name moescope.lab.example --no-browser
    """
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}
    if trace is not None:
        from ...store import open_trace, trace_address

        trace = trace_address(trace)
        open_trace(trace)
        environment["MOESCOPE_TRACE"] = trace if "://" in trace else str(Path(trace).absolute())
    if library is not None:
        environment["MOESCOPE_LIBRARY"] = str(Path(library).absolute())
    check_host(host)
    shared = not is_loopback(host)
    if shared or names or token_file is not None:  # a public name: others come through a proxy
        environment[TOKEN] = _token(token_file, port)
    if shared:
        click.echo(
            f"warning: listening on {host}: whoever knows the token sees all traces of the library, may start models "
            "and fill the disk. The connection is not encrypted: put a proxy with TLS before it (docs/team.md).",
            err=True,
        )
    folder = Path(__file__).parent.parent
    command = [sys.executable, "-m", "streamlit", "run", str(folder / "main.py")]
    command += options(host, port, names, no_browser=no_browser)
    click.echo(f"moescope on http://{host}:{port}", err=True)
    # Streamlit looks for the theme in its working folder.
    code = _run(command, environment, folder)
    if code not in (0, -signal.SIGINT, -signal.SIGTERM):
        raise click.ClickException(f"the app ended with code {code}")


def options(host: str, port: int, names: Sequence[str] = (), *, no_browser: bool = False) -> list[str]:
    """Streamlit's options. It answers only to names that are known: else any web page whose name is made to point here
    (DNS rebinding) could read the app."""
    settings = SETTINGS | {
        "server.address": host,
        "server.port": str(port),
        "server.headless": str(no_browser).lower(),
    }
    found = [word for name, value in settings.items() for word in (f"--{name}", value)]
    known = [*LOOPBACK, *names]
    if not is_loopback(host):
        known += own_addresses() if ipaddress.ip_address(host).is_unspecified else [host]
    return found + [word for name in dict.fromkeys(known) for word in ("--server.allowedHosts", name)]


def check_host(host: str) -> None:
    """Raises click.UsageError where the host is no address."""
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise click.UsageError(f"--host {host}: give an IP address; names go with --public-name") from None


def own_addresses() -> list[str]:
    """Addresses and names of this machine that a visitor may use."""
    import socket

    name = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        found = set()
    return [name, *sorted(found)]


def _token(file: Path | None, port: int) -> str:
    """The token that visitors must give; said once, with the file that holds it."""
    from ...tracer.serve.token_file import default_token_file

    path = file or default_token_file(port)
    try:
        if file is not None and file.exists():
            token, warnings = read_token(path)
            for warning in warnings:
                click.echo(f"warning: {warning}", err=True)
        else:
            token = write_token(path)
    except (TokenError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"token in {path}", err=True)
    return token


def _run(command: Sequence[str], environment: dict[str, str], folder: Path) -> int:
    """Run the app; Ctrl-C and SIGTERM end it too, whatever it is doing."""
    process = subprocess.Popen(command, env=environment, cwd=folder)

    def end(number: int, frame: object) -> None:
        process.terminate()

    before = signal.signal(signal.SIGTERM, end)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.terminate()
                try:
                    return process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    finally:
        signal.signal(signal.SIGTERM, before)
