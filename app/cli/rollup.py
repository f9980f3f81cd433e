"""`moescope rollup`: sums by group beside a very large trace."""

from __future__ import annotations

import json

import click

from ..text.words import amount
from .output import Lines, open_with_warnings


@click.command("rollup")
@click.argument("trace")
@click.option(
    "--by", multiple=True, metavar="NAME",
    help="A column or tag to group by; repeat it. Default: language, group, and tags with few values.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def rollup_command(trace: str, by: tuple[str, ...], as_json: bool) -> None:
    """Sum the rollups of all prompts by language, group and tags, into the trace.

    Views of use by group (load, load-balance, specialisation, expert-map) then read these sums and not those of every
    prompt; no number changes. Worth it from about 10⁹ events on. Run it again after parts are added.

    \b
    Example:
      moescope rollup s3://bucket/trace
      moescope rollup my-trace --by language --by domain
    """
    from ...store.groups.sums import write_group_sums

    listed = write_group_sums(open_with_warnings(trace), by or None, Lines("parts"))
    facts = {
        "columns": list(listed.columns), "groups": len(listed.cells), "rows": listed.file.rows,
        "bytes": listed.file.bytes,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps({"trace": trace, **facts}))
        return
    named = ", ".join(listed.columns) or "nothing"
    click.echo(
        f"sums of {amount(len(listed.cells), 'group')} by {named}: {listed.file.bytes / 1e6:.1f} MB → {trace}"
    )
