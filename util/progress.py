"""Progress bars."""

import sys
from contextlib import suppress
from typing import Any

import progressbar


class _Bar(progressbar.ProgressBar):
    """Goes on when its terminal is gone, as after a logout: the work is worth more than the bar."""

    def update(self, *args: Any, **variables: Any) -> Any:
        with suppress(OSError):
            super().update(*args, **variables)
        return self

    def finish(self, *args: Any, **options: Any) -> None:
        with suppress(OSError):
            super().finish(*args, **options)


def progress_bar(
    total: int, prefix: str = "", suffix: str = "", *, start: int = 0, show: bool = True, **variables: str
) -> progressbar.ProgressBar:
    """A bar on stderr, to be used in a ``with`` statement; one that prints nothing if stderr is not a terminal.

    Args:
        total: number of steps, 0 if unknown; an estimate may be exceeded.
        prefix, suffix: text around the bar; shows ``{variables.name}``, which ``update(step, name=...)`` changes.
        start: step to begin with.
        variables: first values of the variables.
    """
    bar = _Bar if show and sys.stderr.isatty() else progressbar.NullBar
    time = progressbar.ETA() if total else progressbar.Timer()
    widgets = [progressbar.SimpleProgress(), " ", progressbar.Bar(), " ", time]
    texts: dict[str, Any] = {"prefix": prefix, "suffix": suffix, "variables": variables}
    return bar(start, total or progressbar.UnknownLength, widgets, max_error=False, **texts)
