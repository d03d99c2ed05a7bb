"""A geomap job file under Dagster, in process or by schedule: docs/jobs.md says how."""

from pathlib import Path

from dagster import Config, Definitions, Failure, RetryRequested, ScheduleDefinition, job, op

from geomap import errors
from geomap.jobs import due, file


class JobFile(Config):
    path: str = "pipelines/rolling_update_monthly.yaml"


@op
def run_job(config: JobFile) -> None:
    try:
        results = list(due.run_job(file.read_job(Path(config.path)), due.today()))
    except errors.TemporaryError as e:
        raise RetryRequested(max_retries=20, seconds_to_wait=900) from e  # it goes on where it stopped
    if left_out := [tile for result in results for tile in result.quarantined]:
        raise Failure(f"complete but for tiles in quarantine: {', '.join(left_out)}")


@job
def map_region() -> None:
    run_job()


defs = Definitions(jobs=[map_region], schedules=[ScheduleDefinition(job=map_region, cron_schedule="0 3 5 * *")])
