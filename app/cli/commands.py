"""The `moescope` command: a thin layer over the same calls that notebooks use.

Exit codes: 0 done, 1 failed (one line on stderr says why; MOESCOPE_DEBUG=1 shows the traceback), 2 usage,
3 more flips than `compare --fail-above` allows.
Heavy libraries are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress

import click

from .ranks import together

COMMANDS = {
    "app": ("app", "Open the explorer in the browser."),
    "trace": ("trace", "Run a model over a prompt set and record its routing."),
    "serve": ("live", "Hold a model in a process and answer over HTTP."),
    "generate": ("live", "Continue a prompt, with and without a steering profile."),
    "evaluate": (
        "evaluate",
        "Measure what a steering profile does over a prompt set, and what its controls do.",
    ),
    "doctor": ("live", "Check on a real model that what is recorded is what is executed."),
    "info": ("look", "Show what a trace contains."),
    "view": ("look", "Print a named view of a trace as a table."),
    "sql": ("look", "Run one read-only SELECT over a trace."),
    "attach": ("attach", "Make a trace from a running vLLM or SGLang server."),
    "compare": ("compare", "Compare the routing of two traces, token by token."),
    "import": ("files", "Make a trace from routing that another tool recorded."),
    "merge-shards": ("shards", "Make one trace of several of the same prompt set."),
    "rollup": ("rollup", "Store sums of a very large trace by language, group and tags."),
    "export": ("files", "Write a trace as one DuckDB file, Parquet, CSV or JSONL."),
    "weigh": ("weigh", "Measure each expert's weights and outputs; store them in the trace."),
    "place": ("place", "Compare placements of experts on devices; write one for SGLang."),
    "offload": ("offload", "Simulate a cache of experts: hit rate and bytes loaded."),
    "merge": ("merge", "Write a checkpoint with similar experts merged."),
    "prune": ("prune", "Write a checkpoint with fewer experts that plain transformers loads."),
    "bits": ("bits", "Choose each expert's bit width; write a recipe for a quantiser."),
    "pick": ("pick", "Pick prompts that use experts evenly, to calibrate a quantiser."),
    "report": ("report", "Write figures, numbers and methods of a trace to one HTML or PDF file."),
    "bundle": ("report", "Write a folder to share: report, figures for print, tables, methods."),
    "prompts": ("files", "Make prompt sets."),
    "example": ("example", "Make an example of the gallery of routers, or list them."),
}
"""Command → the module that holds it, and its line in the overview."""


class Lazy(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        return getattr(module, f"{cmd_name.replace('-', '_')}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="moescope", prog_name="moescope")
def cli() -> None:
    """A routing explorer for Mixture-of-Experts models.

    \b
    Example:
      moescope trace sample_data/model sample_data/udhr.csv --out my-trace
      moescope app my-trace
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.exit(together(lambda: run(argv)))


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        code = cli.main(
            args=None if argv is None else list(argv), prog_name="moescope", standalone_mode=False
        )
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.Abort:
        return _failed("interrupted")
    except KeyboardInterrupt:
        return _failed("interrupted")
    except BrokenPipeError:
        # The reader of a pipe has gone: nothing more can be said to it.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.ClickException as error:
        return _failed(error.message)
    except Exception as error:  # noqa: BLE001 - the last stop before the user
        return _failed(reason(error), 2 if _is_usage(error) else 1)
    # Of a command that ends with a code of its own, click gives that code.
    return code if isinstance(code, int) else 0


def reason(error: Exception) -> str:
    """One line that says what went wrong."""
    from ...store.errors import StoreError
    from ...tracer.errors import TracerError
    from ...tracer.prompts.prompt import PromptSetError

    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, (StoreError, TracerError, PromptSetError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text} (set MOESCOPE_DEBUG=1 to see where)"


def _is_usage(error: Exception) -> bool:
    from ...store.errors import BadArgument

    return isinstance(error, BadArgument)


LONGEST = 2000
"""Characters of an error; what it quotes may be as long as a file."""


def _failed(message: str, code: int = 1) -> int:
    if os.environ.get("MOESCOPE_DEBUG"):
        traceback.print_exc()
    from ..text.literal import cut, visible

    lines = cut(message, LONGEST).splitlines()
    click.echo("moescope: " + "\n".join(map(visible, lines)), err=True)
    return code
