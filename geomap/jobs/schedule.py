"""Writes a job's schedule for one machine as text: a systemd service, its timer, a cron line.

Nothing is installed here. Options of the units are those of systemd.service(5), systemd.timer(5) and systemd.unit(5) of
version 245 or newer; cron means crontab(5) as Vixie cron and cronie have it.
"""

from __future__ import annotations

import re
import shlex
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geomap.errors import InputError

EVERY: Final = {"monthly": "0 3 5 * *", "weekly": "0 3 * * 1", "daily": "0 3 * * *"}
"""Cron expressions. Monthly is the fifth: scenes of the last days of a month take days to reach a catalogue."""
RETRIED: Final = {"0 3 5 * *": "0 3 5-11 * *"}
"""What cron gets instead: it does not retry by itself, and a run whose map is finished takes no time."""
RETRY: Final = "Cron does not try again, so it asks on seven days in a row; a finished map is left as it is."
NOTIFY: Final = "geomap-notify@.service"
"""Unit file of the failure notice, which all jobs share and users may edit."""
RETRY_AFTER: Final = "15min"
MAX_STARTS: Final = 20  # in 12 h: retries for five hours, and the timer's own starts
TEMPORARY: Final = 75  # EX_TEMPFAIL of sysexits.h: errors.TemporaryError

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day", 1, 31, ()), ("month", 1, 12, _MONTHS))
_WEEKDAY: Final = ("weekday", 0, 7, _DAYS)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job that runs regularly."""

    name: str  # of the job, as jobfile.JobKeys allows it
    job: Path  # absolute
    program: tuple[str, ...]  # how to start geomap: an absolute path, and arguments
    cron: str  # when: five fields
    account: str | None = None  # whose system service it is; None: a service of the user's own manager
    memory: int | None = None  # bytes that the service may take

    def __post_init__(self) -> None:
        calendars(self.cron)
        for text in (str(self.job), *self.program):
            if not text.isprintable():
                raise InputError(f"the path {text!a} has characters that no unit file holds; rename it")
        if not self.program[0].startswith("/") or set(self.program[0]) & set("\"'\\"):
            raise InputError(f"systemd takes no program at {self.program[0]}; it must be a full path without quotes")


def files(schedule: Schedule) -> dict[str, str]:
    """File name -> content: service, timer, notice of failure, crontab."""
    unit = f"geomap-{schedule.name}"
    return {
        f"{unit}.service": _service(schedule),
        f"{unit}.timer": _timer(schedule),
        NOTIFY: _notice(user=schedule.account is None),
        f"{unit}.cron": _crontab(schedule),
    }


def calendars(cron: str) -> tuple[str, ...]:
    """A cron expression as systemd's OnCalendar expressions, every value written out. Raises InputError.

    Where both the day of the month and the weekday are restricted, cron means either: that takes two expressions.
    """
    fields = cron.split()
    if len(fields) != 5:
        raise InputError(f'cannot read --cron "{cron}"; give minute hour day month weekday, for example "0 3 5 * *"')
    minute, hour, day, month = (_values(field, *what) for field, what in zip(fields, _FIELDS, strict=False))
    weekday = {v % 7 for v in _values(fields[4], *_WEEKDAY)}
    if len(minute) > 1:
        raise InputError(f'--cron "{cron}" starts more than once an hour; give one minute, as in "0 3 5 * *"')
    clock = f"{_listed(hour, 24)}:{_listed(minute, 60)}:00"
    names = ",".join(_DAYS[v].capitalize() for v in sorted(weekday, key=lambda v: (v - 1) % 7))
    on_days = f"*-{_listed(month, 12)}-{_listed(day, 31)} {clock}"
    comes = min(day) <= max(monthrange(2024, m)[1] for m in month)  # of a leap year
    either = len(weekday) < 7 and not (fields[2].startswith("*") or fields[4].startswith("*"))
    if either:
        return (*((on_days,) if comes else ()), f"{names} *-{_listed(month, 12)}-* {clock}")
    if not comes:
        raise InputError(f'--cron "{cron}" never comes: its months have no day {min(day)}; give another day or month')
    return (on_days if len(weekday) == 7 else f"{names} {on_days}",)


def _values(field: str, what: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    """The numbers that one field of a cron expression means."""
    found: set[int] = set()
    for part in field.lower().split(","):
        m = re.fullmatch(r"(?:\*|(\w{1,3})(?:-(\w{1,3}))?)(?:/(\d{1,2}))?", part, re.ASCII)
        step = int(m[3] or 1) if m else 0
        if m is None or not step or (m[3] and m[1] and not m[2]):
            raise InputError(f"cannot read the {what} {part!r} of --cron; write *, 5, 1-5, */2 or 1,15")
        first = low if m[1] is None else _number(m[1], what, low, high, names)
        last = high if m[1] is None else first if m[2] is None else _number(m[2], what, low, high, names)
        if last < first:
            raise InputError(f"the {what} {part!r} of --cron goes backwards")
        found |= set(range(first, last + 1, step))
    return found


def _number(text: str, what: str, low: int, high: int, names: Sequence[str]) -> int:
    value = names.index(text) + low if text in names else int(text) if text.isdigit() else -1
    if not low <= value <= high:
        raise InputError(f"the {what} {text!r} of --cron is not {low}..{high}")
    return value


def _listed(values: set[int], all_of_them: int) -> str:
    return "*" if len(values) == all_of_them else ",".join(f"{v:02d}" for v in sorted(values))


def _service(s: Schedule) -> str:
    command = " ".join([_path(s.program[0]), *map(_argument, (*s.program[1:], "run", str(s.job)))])
    online = ["Wants=network-online.target", "After=network-online.target"] if s.account else []
    env = f"/etc/geomap/{s.name}.env" if s.account else f"%h/.config/geomap/{s.name}.env"
    lines = [
        "# Maps what the job file says; where it stopped, it goes on. Written by `geomap schedule`.",
        "[Unit]",
        f"Description=geomap: {s.name}",
        *online,
        "# Told once all tries are spent, or at once after exit 2 (bad input) or 3 (tiles in quarantine).",
        "OnFailure=geomap-notify@%n.service",
        "StartLimitIntervalSec=12h",
        f"StartLimitBurst={MAX_STARTS}",
        "",
        "[Service]",
        "# Not oneshot: that type allows no RestartForceExitStatus.",
        "Type=exec",
        *([f"User={s.account}"] if s.account else []),
        f"ExecStart={command}",
        "# Credentials, if the catalogue needs some: AWS_ACCESS_KEY_ID=... (mode 0600).",
        f"EnvironmentFile=-{env}",
        "Restart=on-failure",
        f"RestartSec={RETRY_AFTER}",
        f"RestartForceExitStatus={TEMPORARY}",
        "RestartPreventExitStatus=2 3",
        *([f"MemoryMax={s.memory // 2**20}M"] if s.memory else []),
        "Nice=10",
        "NoNewPrivileges=true",
    ]
    return "\n".join(lines) + "\n"


def _timer(s: Schedule) -> str:
    lines = [
        f"# Starts geomap-{s.name}.service. Written by `geomap schedule`.",
        "[Unit]",
        f"Description=geomap: when to run {s.name}",
        "",
        "[Timer]",
        *(f"OnCalendar={when}" for when in calendars(s.cron)),
        "# A machine that was off then starts the job when it is on again.",
        "Persistent=true",
        "RandomizedDelaySec=30min",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"


def _notice(user: bool) -> str:
    """The notice of failure; `user` for a service of the user's own manager, which has a journal of its own."""
    manager = " --user" if user else ""
    lines = [
        "# What happens when a job fails for good: a line in the system's log. To get mail, replace ExecStart, as by",
        f'#   ExecStart=/bin/sh -c \'systemctl{manager} status --lines=30 "%i" | mail -s "%i failed" you@example.org\'',
        "[Unit]",
        "Description=Say that %i failed",
        "",
        "[Service]",
        "Type=oneshot",
        f'ExecStart=/usr/bin/logger --priority user.err --tag geomap "%i failed; see: journalctl{manager} --unit %i"',
    ]
    return "\n".join(lines) + "\n"


NOTICES: Final = (_notice(user=False), _notice(user=True))
"""The notices of failure as they are written, of the system's and of the user's services: others are edited ones."""


def without_line(name: str) -> str:
    """The shell command that prints the crontab without the lines of a job, which end with its mark."""
    return f"crontab -l 2>/dev/null | grep -v ' {_mark(name)}$'"


def _mark(name: str) -> str:
    """What ends every line of a job in a crontab: to sh, a comment. Names have nothing that is a pattern to grep."""
    return f"# geomap:{name}"


def _crontab(s: Schedule) -> str:
    run = ("nice", "-n", "10", *s.program, "run", "--quiet", str(s.job))
    when = RETRIED.get(s.cron, s.cron)
    locked = ("flock", "-n", "-E", str(TEMPORARY), str(s.job), *run)
    command = shlex.join(locked).replace("%", "\\%")  # to cron, a plain % ends the line
    lines = [
        "# The job file is locked while it runs, so runs never overlap. Nothing is printed where all went well: cron",
        "# mails the rest. Without mail, redirect it to a file. Written by `geomap schedule`.",
        *([f"# {RETRY}"] if s.cron in RETRIED else []),
        f"{when} {command}",
    ]
    return "".join(f"{line} {_mark(s.name)}\n" for line in lines)


def _path(text: str) -> str:
    """A program in ExecStart: specifiers escaped; variables are not expanded there."""
    return f'"{text.replace("%", "%%")}"'


def _argument(text: str) -> str:
    """An argument in ExecStart: quoted; specifiers and variables escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
