"""Schedules as systemd, cron, Kubernetes and Dagster read them, not as they were written."""

import configparser
import datetime
import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from geomap.errors import InputError
from geomap.jobs import schedule
from geomap.jobs.schedule import Schedule
from tests.support import REPOSITORY
from tests.support.runner import geomap

ODD = 'it\'s 100% "odd" $HOME ${x} é;&'
"""A folder's name with everything that systemd, cron and sh take for something else, but for what they cannot take."""
CRON = ["0 3 5 * *", "0 3 * * 1", "30 */6 1-7 jan-mar,12 *", "15 4 * * sun,3-5", "5 0 13 * fri", "59 23 */9 */2 0-7/3"]

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def made(**changes: Any) -> Schedule:
    fields: dict[str, Any] = {
        "name": "patch",
        "job": Path("/srv/job.yaml"),
        "program": ("/bin/true",),
        "cron": "0 3 5 * *",
        "account": "root",
    }
    return Schedule(**(fields | changes))


def parsed(text: str) -> dict[str, dict[str, str]]:
    """A unit file by a parser of its own kind: keys once per section, no interpolation, case kept."""
    parser = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def command_of(exec_start: str) -> list[str]:
    """What systemd runs: words unquoted (as sh does in double quotes), then %% and, in arguments, $$."""
    words = shlex.split(exec_start)
    assert not any(re.search(r"(?<!%)%(%%)*(?!%)", word) for word in words), "a specifier"
    assert not any(re.search(r"(?<!\$)\$(\$\$)*(?!\$)", word) for word in words[1:]), "a variable"
    plain = [word.replace("%%", "%") for word in words]
    return [plain[0], *(word.replace("$$", "$") for word in plain[1:])]


# --- systemd


@needs_systemd
@pytest.mark.parametrize("user", [False, True])
def test_systemd_accepts_the_units(tmp_path: Path, user: bool) -> None:
    folder = tmp_path / ODD.replace('"', "").replace("'", "")  # systemd takes no program below such a folder
    folder.mkdir()
    program = folder / "geomap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    job = Path("/srv") / ODD / "job.yaml"
    plan = made(program=(str(program),), job=job, account=None if user else "root", memory=14 * 2**30, cron=CRON[4])
    for name, content in schedule.files(plan).items():
        (tmp_path / name).write_text(content)
    (tmp_path / "geomap-notify@x.service").write_text((tmp_path / "geomap-notify@.service").read_text())
    units = [str(tmp_path / f"geomap-{name}") for name in ("patch.service", "patch.timer", "notify@x.service")]
    command = ["systemd-analyze", *(["--user"] if user else []), "verify", *units]
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_tried_again_where_that_helps() -> None:
    files = schedule.files(made(memory=8 * 2**30))
    assert set(files) == {"geomap-patch.service", "geomap-patch.timer", "geomap-notify@.service", "geomap-patch.cron"}
    unit = parsed(files["geomap-patch.service"])
    service = unit["Service"]
    assert service["Type"] == "exec"
    assert (service["Restart"], service["RestartForceExitStatus"]) == ("on-failure", "75")
    assert service["RestartPreventExitStatus"] == "2 3"
    assert (service["MemoryMax"], service["Nice"], service["User"]) == ("8192M", "10", "root")
    assert unit["Unit"]["OnFailure"] == "geomap-notify@%n.service"
    assert (unit["Unit"]["StartLimitIntervalSec"], unit["Unit"]["StartLimitBurst"]) == ("12h", "20")
    timer = parsed(files["geomap-patch.timer"])
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Timer"]["OnCalendar"] == "*-*-05 03:00:00"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert "%i" in parsed(files["geomap-notify@.service"])["Service"]["ExecStart"]


def test_a_users_own_service_names_no_account_and_no_memory() -> None:
    unit = parsed(schedule.files(made(account=None))["geomap-patch.service"])
    assert not {"User", "MemoryMax"} & unit["Service"].keys()
    assert "network-online" not in str(unit)  # only the system's manager knows that target
    assert unit["Service"]["EnvironmentFile"] == "-%h/.config/geomap/patch.env"


PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=40)


@given(PRINTABLE, st.text(st.sampled_from(" %$;&{}é-=~*a"), max_size=20))
@settings(max_examples=300)
def test_any_path_reaches_the_program_as_it_is(job: str, program: str) -> None:
    plan = made(job=Path("/") / job, program=(f"/{program}", "-m", "geomap.cli"))
    service = parsed(schedule.files(plan)["geomap-patch.service"])["Service"]
    assert command_of(service["ExecStart"]) == [f"/{program}", "-m", "geomap.cli", "run", str(Path("/") / job)]


@pytest.mark.parametrize(
    "changes",
    [
        {"job": Path("/a\nExecStart=/bin/evil")},
        {"program": ("/a\n[Service]",)},
        {"program": ('/a"b/geomap',)},
        {"program": ("geomap",)},
    ],
)
def test_paths_that_no_unit_can_hold_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        made(**changes)


# --- when


def starts(cron: str, after: datetime.datetime, count: int) -> list[datetime.datetime]:
    """The next starts, found by asking of every hour whether it fits: crontab(5) by itself, one minute given."""
    names = {datetime.date(2024, m, 1).strftime("%b").lower(): m for m in range(1, 13)}
    names |= {datetime.date(2024, 9, d).strftime("%a").lower(): d - 1 for d in range(1, 8)}  # 1 September: a Sunday

    def fits(field: str, value: int, low: int, high: int) -> bool:
        for part in field.split(","):
            span, _, step = part.partition("/")
            first, _, last = ("", "", "") if span == "*" else span.partition("-")
            a = low if span == "*" else int(names.get(first, first))
            b = high if span == "*" else int(names.get(last, last)) if last else a
            if a <= value <= b and (value - a) % int(step or 1) == 0:
                return True
        return False

    minute, hour, day, month, weekday = cron.split()
    found = []
    when = after.replace(minute=int(minute), second=0, microsecond=0)
    while len(found) < count:
        dow = when.isoweekday() % 7
        by_day = fits(day, when.day, 1, 31)
        by_weekday = fits(weekday, dow, 0, 7) or (dow == 0 and fits(weekday, 7, 0, 7))
        either = not (day.startswith("*") or weekday.startswith("*"))
        day_fits = by_day or by_weekday if either else by_day and by_weekday
        if when > after and fits(hour, when.hour, 0, 23) and fits(month, when.month, 1, 12) and day_fits:
            found.append(when)
        when += datetime.timedelta(hours=1)
    return found


@needs_systemd
@pytest.mark.parametrize("cron", CRON)
def test_the_timer_starts_when_cron_would(cron: str) -> None:
    after = datetime.datetime(2024, 2, 20, 12, 7)
    command = ["systemd-analyze", "calendar", "--iterations=20", f"--base-time={after} UTC", *schedule.calendars(cron)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"}, check=True)
    times = re.findall(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", done.stdout)
    assert len(times) >= 20
    assert sorted({datetime.datetime.fromisoformat(t) for t in times})[:20] == starts(cron, after, 20)


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 3 5 *", "minute hour day month weekday"),
        ("@monthly", "minute hour day month weekday"),
        ("0 3 5 * 8", "weekday '8'"),
        ("60 3 5 * *", "minute '60'"),
        ("0 3 0 * *", "day '0'"),
        ("0 3 5 foo *", "month 'foo'"),
        ("0 3 5-1 * *", "backwards"),
        ("0 3/2 * * *", "hour '3/2'"),
        ("0 3 */0 * *", "day '*/0'"),
        ("0 3 , * *", "day ''"),
        ("*/15 * * * *", "more than once an hour"),
        ("5 0 31 2 *", "never comes: its months have no day 31"),
        ("5 0 31 4 *", "never comes: its months have no day 31"),
        ("5 0 30,31 feb */2", "never comes: its months have no day 30"),
        ("0 3 5 * *\n[Service]\nExecStart=/bin/evil", "minute hour day month weekday"),
    ],
)
def test_expressions_that_cron_would_not_take_are_refused(cron: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        schedule.calendars(cron)


def test_a_day_that_some_month_has_or_a_weekday_comes() -> None:
    assert schedule.calendars("5 0 29 2 *") == ("*-02-29 00:05:00",)
    assert schedule.calendars("5 0 31 4,5 *") == ("*-04,05-31 00:05:00",)
    assert schedule.calendars("5 0 31 4 mon") == ("Mon *-04-* 00:05:00",)  # cron: on either, and one never comes


@given(st.text(st.sampled_from("0123456789*/,-? abjfmonsu\n"), max_size=25))
@settings(max_examples=300)
def test_any_text_is_a_time_or_an_input_error(text: str) -> None:
    try:
        found = schedule.calendars(text)
    except InputError:
        return
    assert all(re.fullmatch(r"([A-Z][a-z]{2},?)*\s?\*-[\d,*]+-[\d,*]+ [\d,*]+:\d\d:00", when) for when in found)


# --- cron


def as_cron_runs(line: str) -> str:
    """The command of a crontab line: what follows five fields, to the first plain %; the backslash of \\% goes."""
    command = line.split(maxsplit=5)[5]
    end = re.search(r"(?<!\\)%", command)
    return command[: end.start() if end else None].replace("\\%", "%")


def test_the_cron_line_runs_the_job_and_never_twice_at_once(tmp_path: Path) -> None:
    folder = tmp_path / ODD.replace('"', "").replace("'", "")
    folder.mkdir()
    job = folder / 'jo\'b "100%".yaml'
    job.write_text("")
    program = folder / "geomap"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {shlex.quote(str(folder / "called"))}; exit 3\n')
    program.chmod(0o755)
    lines = schedule.files(made(program=(str(program),), job=job))["geomap-patch.cron"].splitlines(keepends=True)
    assert all(line.startswith("#") for line in lines[:-1])
    assert lines[-1].endswith("\n")  # cron ignores a last line without it
    assert lines[-1].split()[:5] == ["0", "3", "5-11", "*", "*"]
    command = as_cron_runs(lines[-1])
    run = ["/bin/sh", "-c", command]
    assert subprocess.run(run, cwd="/", timeout=30).returncode == 3
    assert (folder / "called").read_text().splitlines() == ["run", "--quiet", str(job)]
    with job.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert subprocess.run(run, cwd="/", timeout=30).returncode == 75
    assert len((folder / "called").read_text().splitlines()) == 3


# --- the command


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "my job.yaml"
    content = {
        "name": "patch",
        "area": [4, 50, 4.1, 50.1],
        "period": {"last": 12},
        "legends": ["landcover"],
        "outputs": {"directory": "{period}"},
        "resources": {"workers": 2, "memory": "4 GiB"},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("user", [False, True])
def test_schedule_writes_files_and_says_what_to_type(job: Path, tmp_path: Path, user: bool) -> None:
    out = tmp_path / "units here"
    done = geomap("schedule", job, "--monthly", "--out", out, *(["--user"] if user else []))
    assert done.exit_code == 0, done.stderr
    names = {"geomap-patch.service", "geomap-patch.timer", "geomap-notify@.service", "geomap-patch.cron"}
    assert {p.name for p in out.iterdir()} == names
    assert {p.name for p in tmp_path.iterdir()} == {"my job.yaml", "units here"}
    service = parsed((out / "geomap-patch.service").read_text())["Service"]
    command = command_of(service["ExecStart"])
    assert Path(command[0]).is_file()
    assert command[-2:] == ["run", str(job)]
    assert service["MemoryMax"] == f"{10 * 1024}M"
    assert ("User" in service) is not user
    typed = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    control = "systemctl --user" if user else "sudo systemctl"
    assert f"{control} enable --now geomap-patch.timer" in typed
    copied = next(line for line in typed if "install" in line)
    assert [str(out / "*.service"), str(out / "*.timer")] == shlex.split(copied)[-2:]
    assert any("linger" in line for line in typed) is user
    asking = [line for line in typed if line.startswith(("systemctl", "sudo systemctl", "journalctl"))]
    assert [("--user" in line) for line in asking] == [user] * 5
    if user:  # before the timer, which would stop with the session
        assert [line.split()[0] for line in typed][:3] == ["loginctl", "install", "systemctl"]
        assert "not with su or sudo" in done.stdout
    notice = (out / "geomap-notify@.service").read_text()
    told = parsed(notice)["Service"]["ExecStart"]
    assert ("journalctl --user --unit %i" in told, "systemctl --user status" in notice) == (user, user)


def test_a_notice_that_nobody_edited_follows_the_kind_of_service(job: Path, tmp_path: Path) -> None:
    for user in (False, True, False):
        assert geomap("schedule", job, "--daily", "--out", tmp_path, *(["--user"] if user else [])).exit_code == 0
        assert ("--user" in (tmp_path / "geomap-notify@.service").read_text()) is user


CRONTAB = """#!/bin/sh
# crontab(1) over the file $TABLE: -l prints it or fails, - replaces it
case "$1" in
-l) cat "$TABLE" 2>/dev/null || { echo "no crontab for me" >&2; exit 1; } ;;
-) cat > "$TABLE.new" && mv "$TABLE.new" "$TABLE" ;;
esac
"""


def test_the_cron_line_that_is_typed_again_replaces_the_one_before(job: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/crontab").write_text(CRONTAB)
    (tmp_path / "bin/crontab").chmod(0o755)
    table, out = tmp_path / "table", tmp_path / "units here"
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TABLE": str(table)}

    def typed(path: Path, *when: str) -> None:
        said = geomap("schedule", path, *when, "--out", out).stdout
        (line,) = [line.strip() for line in said.splitlines() if line.endswith("| crontab -")]
        assert subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, text=True).stderr == ""

    def commands() -> list[str]:
        return [line for line in table.read_text().splitlines() if not line.startswith("#")]

    typed(job, "--monthly")  # where there is no crontab yet
    once = table.read_text()
    assert len(commands()) == 1
    own = "MAILTO=me@example.org\n5 4 * * * /bin/backup # geomap:patchwork\n# a remark on geomap:patch\n"
    table.write_text(own + once)
    for _ in range(2):
        typed(job, "--monthly")
        assert table.read_text() == own + once
    other = job.with_name("other.yaml")
    other.write_text(job.read_text().replace("name: patch", "name: other-patch"))
    typed(other, "--weekly")
    typed(job, "--daily")
    assert [line.split()[:5] for line in commands()[2:]] == [["0", "3", "*", "*", "1"], ["0", "3", "*", "*", "*"]]
    assert table.read_text().startswith(own)
    assert all(line.rsplit(" # ", 1)[1] in ("geomap:patch", "geomap:other-patch") for line in commands()[2:])


def test_an_edited_notice_is_kept(job: Path, tmp_path: Path) -> None:
    (tmp_path / "geomap-notify@.service").write_text("mine")
    for _ in range(2):  # the other files are written anew
        assert geomap("schedule", job, "--daily", "--out", tmp_path).exit_code == 0
    assert (tmp_path / "geomap-notify@.service").read_text() == "mine"
    assert "00:00" in (tmp_path / "geomap-patch.timer").read_text()


def test_a_job_of_fixed_months_is_told_that_it_ends(job: Path, tmp_path: Path) -> None:
    job.write_text(job.read_text().replace("last: 12", "year: 2023"))
    assert "fixed" in geomap("schedule", job, "--daily", "--out", tmp_path / "u").stdout


@pytest.mark.parametrize(
    "args", [[], ["--daily", "--weekly"], ["--cron", "often"], ["--monthly", "--cron", "0 3 5 * *"]]
)
def test_schedule_takes_one_time(job: Path, tmp_path: Path, args: list[str]) -> None:
    done = geomap("schedule", job, "--out", tmp_path / "u", *args)
    assert done.exit_code == 2
    assert "--cron" in done.stderr
    assert not (tmp_path / "u").exists()


# --- elsewhere


def test_the_kubernetes_example_has_what_the_api_demands() -> None:
    """batch/v1 CronJob: required fields, and the rules that its validation states for podFailurePolicy."""
    cron = yaml.safe_load((REPOSITORY / "contrib/kubernetes/cronjob.yaml").read_text())
    assert (cron["apiVersion"], cron["kind"]) == ("batch/v1", "CronJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", cron["metadata"]["name"])  # at most 52
    spec = cron["spec"]
    assert schedule.calendars(spec["schedule"])
    assert spec["concurrencyPolicy"] == "Forbid"
    assert set(spec) <= {
        "schedule", "timeZone", "startingDeadlineSeconds", "concurrencyPolicy", "suspend", "jobTemplate",
        "successfulJobsHistoryLimit", "failedJobsHistoryLimit",
    }  # fmt: skip
    job = spec["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
    assert [c.keys() >= {"name", "image", "command"} for c in pod["containers"]] == [True]
    volumes = {v["name"] for v in pod["volumes"]}
    assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == volumes
    codes, disruption = job["podFailurePolicy"]["rules"]
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"] == {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [2, 3]}
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@pytest.fixture
def dagster_module() -> Iterator[Any]:
    pytest.importorskip("dagster")
    spec = importlib.util.spec_from_file_location("dagster_geomap", REPOSITORY / "contrib/dagster_geomap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_dagster_example_is_short() -> None:
    assert len((REPOSITORY / "contrib/dagster_geomap.py").read_text().splitlines()) <= 30


def test_dagster_runs_a_job_in_process(
    dagster_module: Any, archive: Callable[..., Path], untrained: str, job: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(job.read_text()) | {
        "area": [4.0585, 50.7431, 4.0676, 50.7489],
        "period": {"start": "2018-09", "months": 3},
        "catalogue": {"stac": str(archive(dates=20) / "items.json")},
        "weights": {"name": untrained},
        "min_clear_months": 1,
        "resources": {},
    }
    job.write_text(yaml.safe_dump(content))
    config = {"ops": {"run_job": {"config": {"path": str(job)}}}}
    assert dagster_module.map_region.execute_in_process(run_config=config).success
    assert (tmp_path / "2018-09_2018-11/SHA256SUMS").is_file()
    job.write_text(yaml.safe_dump(content | {"legends": ["crops"]}))
    again = dagster_module.map_region.execute_in_process(run_config=config, raise_on_error=False)
    assert not again.success
    assert dagster_module.defs.get_job_def("map_region").name == "map_region"
