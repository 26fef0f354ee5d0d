"""Measure planners side by side."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="benchmark.py",
    summary="Measures time, memory and cost of planners side by side on the same problem; prints a table.",
    schema="difftori_isaac.benchmarks.config:BenchmarkConfig",
    run="difftori_isaac.benchmarks.benchmark:benchmark",
    examples=(
        "suite=learned_model",
        "suite=known_dynamics num_envs=[64,1024] peers=true json=bench.json plot=bench.png",
        "suite=gradients filter=implicit iterations=[5,20]",
        "suite=training task=Lift num_envs=256",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
