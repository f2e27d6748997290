"""Utilities that know nothing of video segmentation."""

import atexit
import gc
import os

# Threads that wait for work sleep instead of spinning: beside another busy process, spinning threads take the cores
# from those that have work. PyTorch's OpenMP reads this when it is loaded, and every program imports `util` before it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Before it exits, the interpreter searches all objects for garbage: half a second where PyTorch has been imported.
atexit.register(gc.freeze)
