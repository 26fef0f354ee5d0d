"""Measure a policy."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="evaluate.py",
    summary="Runs episodes with the deterministic policy; prints return and success rate and writes eval.json.",
    schema="difftori_isaac.run.config:EvaluateConfig",
    run="difftori_isaac.run.evaluate:evaluate",
    examples=(
        "task=Cartpole",
        "run_dir=runs/Lift/trajopt/first checkpoint=best num_episodes=500 seed=7",
        "task=Reach policy=zero output=zero.json",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
