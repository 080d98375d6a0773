"""`fedafd audit`: the server's log of who did what, and what a site's released representations tell of its data.

Heavy imports stand inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.agent_options import AgentYaml
from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.remote.audit_log import export, verify
from fedafd.cli.remote.audit_redo import redo

__all__ = ["audit_app"]

audit_app = typer.Typer(help="Check the audit log, and measure what has left a site.", no_args_is_help=True)
audit_app.command("export")(export)
audit_app.command("verify", cls=AnswerCommand)(verify)
audit_app.command("redo", cls=AnswerCommand)(redo)


@audit_app.command("leakage", cls=AnswerCommand)
def leakage(
    config: AgentYaml = Path("agent.yaml"),
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="Of the bootstrap.")] = 1000,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="A word whose presence in a text or caption is the attribute to infer; may be repeated."),
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(
            help="CSV with two columns, sample (a file name, a pair's id or a text) and the attribute to infer."
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Infer membership, label distribution and an attribute from what this site delivered last, as its server could.

    Runs at the site, because it needs the true answers: nothing leaves. The agent may be running.
    """
    from fedafd.agent.leakage import audit_words, audited
    from fedafd.agent.main import read_site

    leakages = audited(read_site(config), resamples=resamples, topics=topic or (), attributes=attributes)
    if output.is_data:
        print_answer(leakages.to_dict(), output)
        return
    for line in audit_words(leakages):
        typer.echo(line)
