"""What holds for every test: one thread per process, as tests run in several processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; subprocesses inherit it
