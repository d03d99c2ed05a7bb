"""The time left that progress bars show."""

from rich.progress import Progress

from geomap.cli.console import Remaining


def test_time_left_is_that_of_the_mean_speed_since_the_bar_began():
    """Of 10 tiles 2 came from an earlier run; the next 2 took 5 and 55 s, so the last 6 take 180 s."""
    now = [100.0]
    column = Remaining()
    with Progress(column, get_time=lambda: now[0], disable=True) as bars:
        bar = bars.add_task("tiles", total=10, completed=2, first=2)
        task = bars.tasks[0]
        assert str(column.render(task)) == "-:--:--"
        for seconds, done, left in ((5, 3, "0:00:35"), (55, 4, "0:03:00"), (60, 10, "0:00:00")):
            now[0] += seconds
            bars.update(bar, completed=done)
            assert str(column.render(task)) == left
