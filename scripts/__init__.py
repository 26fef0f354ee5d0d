"""Commands: each parses its arguments, calls `difftori_isaac.run` and exits."""
