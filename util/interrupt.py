"""Imported first by the programs: Ctrl-C during the other imports is one line, too, and all standard streams are open.

Where a caller has closed one, the program would open a file in its place, and libraries would print into that file.
"""

import os
import sys
from types import TracebackType


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line

null = os.open(os.devnull, os.O_RDWR)
while null <= 2:  # the lowest number that is free
    null = os.dup(null)
os.close(null)
sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
