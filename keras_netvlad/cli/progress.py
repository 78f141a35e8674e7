"""`extraction_bar`: a progress bar of videos with frames per second and the time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def extraction_bar() -> Iterator[Callable[[Any, int], None]]:
    """Shows a progress bar on standard error during the block.

    Yields:
        A function of an `Extracted` and the number of videos, which advances the bar and prints errors above it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    start, frames = time.monotonic(), 0
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("videos, {task.fields[rate]:.0f} frames per second, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None, rate=0.0)

        def advance(result: Any, total: int) -> None:
            nonlocal frames
            frames += result.num_frames
            rate = frames / (time.monotonic() - start)
            bar.update(task, total=total, advance=1, rate=rate)
            if result.error:
                console.print(f"keras-netvlad extract: {result.error}", markup=False, highlight=False, soft_wrap=True)

        yield advance
