"""``mae report``: a job as one page to look at and to mail."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mae_sdk import answers
from mae_sdk.cli.common import emit, json_option, results_root_option, root_flag, say


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it. Default: report.html in the job's folder.",
)
@click.option("--chain", is_flag=True, help="One page with all the jobs that it came from.")
@click.option("--open", "opening", is_flag=True, help="Show it in a browser.")
@results_root_option
@json_option
def report(
    job_id: str,
    output: Path | None,
    chain: bool,
    opening: bool,
    results_root: str | None,
    as_json: bool,
) -> None:
    """A job as one HTML file that opens offline: result, curves, pictures, tables."""
    from mae_sdk import Skill

    job = Skill().job(job_id, results_root=results_root)
    document = answers.report(job, output, chain=chain)
    if opening:
        import webbrowser

        if not webbrowser.open(Path(document["report"]).absolute().as_uri()):
            say("no browser was found; the file is there all the same")
    command = f"mae jobs show {shlex.quote(job.id)}{root_flag(results_root)}"
    emit(document, as_json=as_json, text=document["report"], next_commands=[command])
