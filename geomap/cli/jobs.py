"""Commands about job files: run, schedule."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from geomap.cli import options
from geomap.cli.console import log_to_stderr, progress_bars, say, say_json
from geomap.cli.show import print_estimate, print_result, refuse_gaps, result_json, warn_of_holes
from geomap.errors import InputError
from geomap.types import today

JobPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file; docs/jobs.md says what it may hold.")]


def run(
    job: JobPath,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Of a finished map: search again, make anew what has changed.")
    ] = False,
    retry_quarantined: options.RetryQuarantined = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but problems.")] = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Map what a job file says.

    A finished map is left as it is, an unfinished one resumes. A rolling period (`period: {last: 12}`) is counted from
    today; an unfinished one comes first.

    Exit code: 0 complete, 1 failed, 2 bad input, 3 complete but tiles are in quarantine or no pixel is mapped, 75 try
    again later.
    """
    log_to_stderr(verbose)
    from geomap.jobs import file

    read = file.read_job(job)
    from geomap.jobs.due import run_job  # torch and GDAL take seconds to import: only after the input is checked
    from geomap.jobs.notice import telling

    with telling(read) as done:
        try:
            with nullcontext(_silent) if quiet else progress_bars() as progress:
                estimated = _silent if quiet else print_estimate
                done.extend(  # keeps the results from before an error
                    run_job(
                        read,
                        today(),
                        progress,
                        estimated,
                        refresh=refresh,
                        retry_quarantined=retry_quarantined,
                    )
                )
        finally:
            if as_json:
                say_json({"job": str(read.path), "results": [result_json(result) for result in done]})
            for result in done:
                (warn_of_holes if quiet or as_json else print_result)(result)
        refuse_gaps(done)


def schedule(
    job: JobPath,
    monthly: Annotated[bool, typer.Option("--monthly", help="On the fifth of every month.")] = False,
    weekly: Annotated[bool, typer.Option("--weekly", help="On Mondays.")] = False,
    daily: Annotated[bool, typer.Option("--daily", help="Every night.")] = False,
    cron: Annotated[str | None, typer.Option(metavar="EXPR", help='When, as cron writes it: "0 3 5 * *".')] = None,
    user: Annotated[bool, typer.Option("--user", help="Units of your own, which need no root.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the files.")] = Path("geomap-schedule"),
) -> None:
    """Write a systemd service with its timer, and a cron line, that run a job.

    Installs nothing. Runs never overlap, start late if the machine was off, retry every quarter of an hour if that may
    help, and say so when they fail for good.

    Example: `geomap schedule pipelines/rolling_update_monthly.yaml --monthly --user`
    """
    from geomap import files
    from geomap.jobs import file
    from geomap.jobs import schedule as plans

    chosen = [*(name for name, asked in _every(monthly, weekly, daily) if asked), *([cron] if cron else [])]
    if len(chosen) != 1:
        raise InputError('give one of --monthly, --weekly, --daily or --cron "0 3 5 * *"')
    read = file.read_job(job)
    plan = plans.Schedule(
        name=read.keys.name,
        job=read.path,
        program=_program(),
        cron=plans.EVERY.get(chosen[0], chosen[0]),
        account=None if user else _account(),
        memory=read.keys.resources.memory_bytes,
    )
    for name, content in plans.files(plan).items():
        if name != plans.NOTIFY or not _is_edited(out / name, plans.NOTICES):
            files.write_bytes(out / name, content.encode())
    if read.keys.period.last is None:
        say("The period of this job is fixed: runs leave its finished map as it is. A rolling one is last: 12.")
    _print_next(out, plan.name, user)
    _print_cron(out / f"geomap-{plan.name}.cron", plans.without_line(plan.name))


def _silent(*_: object) -> None:
    """A progress callback that shows nothing."""


def _every(monthly: bool, weekly: bool, daily: bool) -> tuple[tuple[str, bool], ...]:
    return ("monthly", monthly), ("weekly", weekly), ("daily", daily)


def _program() -> tuple[str, ...]:
    """The command with which a service starts this geomap."""
    beside = Path(sys.executable).with_name("geomap")
    return (str(beside),) if beside.is_file() else (sys.executable, "-m", "geomap.cli")


def _account() -> str:
    """Whose service it is: that of the user who typed the command, also with sudo."""
    uid = int(os.environ.get("SUDO_UID", os.getuid()))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_edited(path: Path, written: tuple[str, ...]) -> bool:
    """Whether a file is there and is none of those that this command writes: the user edited it, to get mail."""
    try:
        return path.read_text("utf-8", "replace") not in written
    except FileNotFoundError:
        return False


def _print_next(out: Path, name: str, user: bool) -> None:
    """Print the files, and what to type to install them."""
    here, unit, control = shlex.quote(str(out)), f"geomap-{name}", "systemctl --user" if user else "sudo systemctl"
    home = "~/.config/systemd/user" if user else "/etc/systemd/system"
    say(f"{out / unit}.service    what runs, when it is tried again, and who is told")
    say(f"{out / unit}.timer      when it runs")
    say(f"{out}/geomap-notify@.service    what happens when it fails for good; edit it to get mail")
    say(f"{out / unit}.cron       the same for cron, where there is no systemd")
    say("\nNothing is installed yet. With systemd:\n")
    if user:
        say("    loginctl enable-linger    # or it runs only while you are logged in; if refused, ask root")
    say(f"    {'' if user else 'sudo '}install -D -m 644 -t {home} {here}/*.service {here}/*.timer")
    say(f"    {control} daemon-reload")
    say(f"    {control} enable --now {unit}.timer")
    say(f"    {control} start {unit}.service    # a first run now")
    say(f"    {control} list-timers {unit}.timer    # when it runs next")
    say(f"    journalctl {'--user ' if user else ''}--unit {unit}    # what it says")
    if user:
        say("\nsystemctl --user needs a session of your own: log in with ssh or at the screen, not with su or sudo.")


def _print_cron(path: Path, others: str) -> None:
    """Print what to type to put the job into the crontab, where it replaces its own earlier lines."""
    say("\nOr with cron; typed again, it replaces the lines of this job and leaves all others:\n")
    say(f"    ({others}; cat {shlex.quote(str(path))}) | crontab -")
