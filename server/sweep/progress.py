"""Progress of a sweep on stderr: how far, how fast, how long still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from server.cli import show


class RateColumn(ProgressColumn):
    """Answers a second since the start, and the time left at that rate. (rich's own columns look at
    the last half minute, and answers come in bursts.)"""

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("")
        rate = task.completed / task.elapsed
        left = timedelta(seconds=round(((task.total or 0) - task.completed) / rate))
        return Text(f"{rate:.2f} answers/s, {left} left")


@contextmanager
def answers_progress(total: int) -> Iterator[Callable[[], None]]:
    """A function to call once an answer."""
    columns = (TextColumn("sweeping"), BarColumn(), MofNCompleteColumn(), RateColumn())
    with Progress(*columns, console=show.err()) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
