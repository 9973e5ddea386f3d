"""Progress of a sweep on stderr: answers done, rate, time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from steersman.client.cli import show


class RateColumn(ProgressColumn):
    """Answers a second since the start, and the time left at that rate. (rich's own columns look at
    the last half minute, and answers come in bursts.)"""

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("")
        rate = task.completed / task.elapsed
        left = timedelta(seconds=round(((task.total or 0) - task.completed) / rate))
        return Text(f"{rate:.2f} answers/s, {left} left")


class AnswersBar:
    """Counts answers. Call `pause` before other text is written."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def advance(self) -> None:
        """Count one more answer as done."""
        self._progress.advance(self._task)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Hide the bar inside this context."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


@contextmanager
def answers_progress(total: int) -> Iterator[AnswersBar]:
    """A bar for `total` answers."""
    columns = (TextColumn("sweeping"), BarColumn(), MofNCompleteColumn(), RateColumn())
    with Progress(*columns, console=show.err()) as progress:
        yield AnswersBar(progress, total)
