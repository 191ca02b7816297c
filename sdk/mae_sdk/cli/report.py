"""``mae report``: a job as one page to look at and to mail, and all jobs of a root, live."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from mae_skill.errors import StorageError

from mae_sdk import answers
from mae_sdk.cli.common import (
    dumps,
    emit,
    json_option,
    results_root_option,
    root_flag,
    say,
)


@click.command()
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The .html to write. Default: report.html in the job's folder.",
)
@click.option("--chain", is_flag=True, help="One page with all the jobs that it came from.")
@click.option("--open", "opening", is_flag=True, help="Show it in a browser.")
@click.option(
    "--serve", is_flag=True, help="All jobs of the results root, live, for this machine alone."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of --serve. Default: a free one."
)
@results_root_option
@json_option
def report(
    job_ids: tuple[str, ...],
    output: Path | None,
    chain: bool,
    opening: bool,
    serve: bool,
    port: int,
    results_root: str | None,
    as_json: bool,
) -> None:
    """A job as one HTML file that opens offline: result, curves, pictures, tables.

    Of several jobs one page says which is best, whether the difference is real,
    and in what they differ.
    """
    if serve:
        _serve(results_root, port, opening, as_json)
        return
    if not job_ids:
        raise click.UsageError("missing JOB (or --serve)")
    from mae_sdk import Skill

    skill = Skill()
    job, *others = (skill.job(one, results_root=results_root) for one in dict.fromkeys(job_ids))
    document = answers.report(job, output, chain=chain, others=others)
    if opening:
        _show(Path(document["report"]).absolute().as_uri())
    if "outcome" in document and not as_json:
        say(document["outcome"])
    command = f"mae jobs show {shlex.quote(job.id)}{root_flag(results_root)}"
    emit(document, as_json=as_json, text=document["report"], next_commands=[command])


def _serve(results_root: str | None, port: int, opening: bool, as_json: bool) -> None:
    """Serve until interrupted.

    Raises:
        StorageError: the port cannot be had.
    """

    from mae_sdk.jobs.root import Root
    from mae_sdk.report.live import Server

    try:
        server = Server(Root(results_root), port)
    except OSError as error:
        raise StorageError(
            f"the port cannot be had: {error.strerror or error}",
            field="port",
            got=port,
            hint="name another --port, or leave it out for a free one",
        ) from error
    click.echo(dumps({"url": server.address}) if as_json else server.address)
    sys.stdout.flush()
    say("on loopback only; end it with Ctrl-C")
    if opening:
        _show(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _show(address: str) -> None:
    import webbrowser

    if not webbrowser.open(address):
        say("no browser was found")
