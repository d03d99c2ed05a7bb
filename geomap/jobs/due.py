"""Turns a job file into requests and runs them: what `geomap run` does, as a function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from geomap import files
from geomap.encode.card import CARD_FILE, locate, weight_names
from geomap.errors import GeomapError, InputError, TemporaryError, UpdateError, WeightsError, to_type
from geomap.jobs.catalog import finished, write_catalog
from geomap.jobs.file import JobResources, MapJob, in_keys
from geomap.run.directory import REQUEST_FILE, read_begun
from geomap.run.map import Estimate, Result, map_area
from geomap.run.request import Earlier, Request, request_of
from geomap.run.workers import Resources
from geomap.sources.providers import PRESETS
from geomap.types import UPDATE, Period, Progress

log = logging.getLogger(__name__)

MAX_BEGUN = 12
"""How many months back to look for an unfinished map of a rolling period, or for a finished one to update."""


def run_job(
    job: MapJob,
    day: date,
    progress: Progress = lambda stage, done, total: None,
    on_estimate: Callable[[Estimate], None] = lambda estimate: None,
    *,
    refresh: bool = False,
    retry_quarantined: bool = False,
) -> Iterator[Result]:
    """Map the periods that are due on `day`, oldest first; a complete period takes no time.

    An older map that cannot be finished is logged and does not stop the newer one; its error is raised at the end.
    `refresh` and `retry_quarantined` are those of `map_area`.

    Raises:
        GeomapError: as `map_area`, in words of the job file.
    """
    failure: GeomapError | None = None
    due = periods(job, day)
    for period in due:
        try:
            with in_keys(job.path):
                result = _mapped(
                    job,
                    period,
                    partial(
                        map_area,
                        progress=progress,
                        on_estimate=on_estimate,
                        resources=_resources(job.keys.resources),
                        refresh=refresh,
                        retry_quarantined=retry_quarantined,
                        earlier=_maps_before(job, period),
                        keep_items=True,
                        day=day,
                        refreshed_by=to_type("run", job.path, "--refresh"),
                    ),
                    refresh,
                )
        except TemporaryError:
            raise
        except GeomapError as e:
            if period == due[-1]:
                raise
            log.warning("%s; going on with a newer period", e)
            failure = failure or e
        else:
            _list_maps(job)
            yield result
    if failure:
        raise failure


def _list_maps(job: MapJob) -> None:
    """Write the STAC catalogue over the job's maps; that it cannot be written does not spoil them."""
    try:
        write_catalog(job)
    except (GeomapError, OSError) as e:
        log.warning("the STAC catalogue over the maps of %s is not written: %s", job.path, e)


def _maps_before(job: MapJob, period: Period) -> list[Path]:
    """The job's finished maps of as many months, earlier ones; none if their folder cannot be read."""
    try:
        found = finished(job)
        return [directory for of, directory in found if of.start < period.start and of.months == period.months]
    except OSError as e:
        log.warning("the page shows no earlier areas: %s", e)
        return []


def _mapped(job: MapJob, period: Period, run: Callable[[Request, Path], Result], refresh: bool) -> Result:
    """Map a period; unless it is finished, from scratch if the earlier map is gone or has, say, other weights."""
    asked, out = request(job, period), job.directory(period)
    try:
        with in_keys(job.path):
            return run(asked, out)
    except UpdateError as e:
        if (out / files.SUMS).is_file() and read_begun(out).finished and not refresh:
            e.args = (f"{e}; or make it again in place: {to_type('run', job.path, '--refresh')}",)
            raise
        log.warning("%s; so that is done now", e)
        return run(replace(asked, update=None), out)


def earlier_of(job: MapJob, period: Period) -> Earlier | None:
    """The newest finished map before a period, to update; a map that was begun keeps the one it began with.

    None if the job asks for no updates, or there is no such map.
    """
    if not job.keys.outputs.update:
        return None
    found = (
        Earlier(job.directory(p), p, rolling=True) for p in (_shifted(period, -n) for n in range(1, MAX_BEGUN + 1))
    )
    directory = job.directory(period)
    if not _request_file(directory).is_file():
        return next((e for e in found if (e.directory / files.SUMS).is_file()), None)
    try:
        known = read_begun(directory).request.get(UPDATE)
    except InputError:
        return None  # the run itself will report what is wrong with it
    return next((e for e in found if str(e.period) == known), None)


def _request_file(directory: Path) -> Path:
    return directory / files.STATE / REQUEST_FILE


def periods(job: MapJob, day: date) -> tuple[Period, ...]:
    """The periods to map on `day`: unfinished rolling ones first, then that of the day.

    So a run that stops in one month and resumes in the next keeps the period it began with.
    """
    current = job.keys.period.at(day)
    if job.keys.period.last is None:
        return (current,)
    before = (_shifted(current, -n) for n in range(MAX_BEGUN, 0, -1))
    return (*(period for period in before if _begun(job.directory(period))), current)


def request(job: MapJob, period: Period) -> Request:
    """What a job asks for in a period. Raises WeightsError if the weights are not those that the job pins."""
    made = request_of(job.keys, job.area, period, job.legends, folder=job.path.parent)
    return replace(
        made,
        stac=_catalogue(job),
        weights=_weights(job),
        save_composites=made.save_composites or job.keys.outputs.update,
        update=earlier_of(job, period),
        points=[job.file(file) for file in made.points],
        learned=str(job.file(made.learned)) if made.learned else None,
    )


def _resources(keys: JobResources) -> Resources:
    return Resources(keys.scheduler, keys.workers, keys.threads, keys.memory)


def _catalogue(job: MapJob) -> str:
    stac = job.keys.catalogue.stac
    return stac if stac in PRESETS or "://" in stac else str(job.file(stac))


def _weights(job: MapJob) -> str:
    """Name or folder of the weights, after a check that they are those that the job pins."""
    asked = job.keys.weights
    name = asked.name if asked.name in weight_names() else str(job.file(asked.name))
    if asked.sha256 is not None:
        found = files.sha256(locate(name) / CARD_FILE)
        if found != asked.sha256:
            raise WeightsError(
                f"weights.sha256 is {asked.sha256[:12]}..., but the card of {name} has {found}; "
                "use the weights that the job was made for, or write the new sum and another outputs.directory"
            )
    return name


def _begun(directory: Path) -> bool:
    return _request_file(directory).is_file() and not (directory / files.SUMS).is_file()


def _shifted(period: Period, months: int) -> Period:
    first = period.year * 12 + period.month - 1 + months
    return Period(first // 12, first % 12 + 1, period.months)
