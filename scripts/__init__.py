"""Commands: each parses its arguments, calls `difftori_isaac.run` or `difftori_isaac.benchmarks` and exits."""
