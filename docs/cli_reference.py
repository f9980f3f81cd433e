"""Writes docs/cli.md from the commands themselves: `python docs/cli_reference.py`. A test holds the page to them."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from moescope.app.cli.commands import COMMANDS, cli
from moescope.store import views

HEAD = """# The command line

Made from the commands' own help by `docs/cli_reference.py`; a test fails when it is out of date.

Exit codes: 0 done, 1 failed (one line on stderr says why; `MOESCOPE_DEBUG=1` shows the traceback), 2 usage,
3 (`compare --fail-above` only) more flips than allowed.
A `TRACE` is a folder, a URL such as `s3://bucket/trace`, or the name of a trace in the library; `sample` is the
bundled one.

"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    context = click.Context(cli, info_name="moescope", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(
            _section(command, click.Context(command, info_name=name, parent=context), f"moescope {name}")
        )
    parts.append(
        "## Views\n\n`moescope view TRACE VIEW --help` tells what a view's parameters and columns mean.\n\n"
    )
    for name in views.names():
        summary = (inspect.getdoc(views.get(name)) or "").splitlines()[0]
        options = " ".join(f"`--{key.replace('_', '-')}`" for key in views.parameters(name))
        parts.append(f"**{name}**: {summary}  \n{options}\n\n")
    return "".join(parts).rstrip() + "\n"


def _section(command: click.Command, context: click.Context, title: str) -> str:
    context.max_content_width = context.terminal_width = 100
    text = f"## {title}\n\n```\n{command.get_help(context)}\n```\n\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            text += _section(sub, click.Context(sub, info_name=name, parent=context), f"{title} {name}")
    return text


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference(), encoding="utf-8")
