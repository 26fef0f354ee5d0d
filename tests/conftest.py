"""What holds for every test: one thread per process, as tests run in several, and MuJoCo drawing without a display."""

import os
from ctypes.util import find_library

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit it
os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "off")  # before Isaac Lab imports mujoco
