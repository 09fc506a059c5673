"""What a tool that reports errors may show of one."""

from __future__ import annotations

import traceback
from pathlib import Path

_HERE = f"{Path(__file__).parent}/"


def crash_report(error: BaseException) -> str:
    """All that a report may hold of an error and of those behind it, with the locals of their frames.

    Frames of tests are left out: they hold the very secrets that are looked for.
    """
    told, todo, seen = [], [error], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        report = traceback.TracebackException.from_exception(one, capture_locals=True)
        # Not by a folder's name: whatever runs may lie below one that is called "tests".
        report.stack = traceback.StackSummary.from_list(
            [frame for frame in report.stack if not frame.filename.startswith(_HERE)]
        )
        told += [repr(one), str(one), repr(one.args), repr(vars(one)), *report.format(chain=False)]
        todo += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "\n".join(told)
