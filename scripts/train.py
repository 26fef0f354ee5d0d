"""Train a policy on a task."""

import sys

from difftori_isaac.run.cli import Command
from difftori_isaac.run.config import TrainConfig

main = Command(
    name="train.py",
    summary="Trains a policy on an Isaac Lab task; its run directory gets configuration, metrics and checkpoints.",
    schema=TrainConfig,
    run="difftori_isaac.run.loop:train",
    examples=(
        "task=Lift",
        "task=Cartpole policy=mlp seed=1 max_iterations=100 device=cpu",
        "task=Reach trajopt.horizon=5 trajopt.solver=theseus env.sim.dt=0.005",
        "task=Cartpole resume=latest max_iterations=300",
        "task=Isaac-Ant-Direct num_envs=4096 device=cuda:0 logger=wandb wandb.mode=offline",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
