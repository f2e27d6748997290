"""Utilities that know nothing of video segmentation."""

import atexit
import gc
import os

# Threads that wait for work soon sleep instead of spinning on: beside another busy process, spinning threads take the
# cores from those that have work. GNU's OpenMP may spin for some microseconds first, as long as most waits are.
# PyTorch's OpenMP reads this when it is loaded, and every program imports `util` before it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Before it exits, the interpreter searches all objects for garbage: half a second where PyTorch has been imported.
atexit.register(gc.freeze)
