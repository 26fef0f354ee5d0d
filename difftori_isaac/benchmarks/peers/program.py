"""Measures one peer: a pickled task in, a row as JSON out."""

from __future__ import annotations

import json
import os
import pickle
import sys
from dataclasses import asdict
from functools import partial
from pkgutil import resolve_name

from difftori_isaac.benchmarks.measure import measure, single_threaded

if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)  # what a peer prints, in a process that measures its memory too, is no part of the answer
        workload, problem, size, settings = pickle.load(sys.stdin.buffer)
        with single_threaded():
            row = measure(partial(resolve_name(workload), problem), size, **settings)
        json.dump(asdict(row), answer)
