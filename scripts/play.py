"""Let a policy act, and film it."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="play.py",
    summary="Lets a trained, random or zero policy act without a window, and writes a video if asked.",
    schema="difftori_isaac.run.config:PlayConfig",
    run="difftori_isaac.run.play:play",
    examples=(
        "task=Lift video=true",
        "run_dir=runs/Cartpole/mlp/first checkpoint=best num_envs=64",
        "task=Reach policy=random num_steps=100",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
