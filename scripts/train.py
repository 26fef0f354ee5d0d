"""Train a policy on a task."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="train.py",
    summary=(
        "Trains a policy on a task; its run directory gets configuration, metrics and checkpoints. "
        "With -m, one run for each combination of values; -m --help lists the settings of such a sweep."
    ),
    schema="difftori_isaac.run.config:TrainConfig",
    run="difftori_isaac.run.loop:train",
    examples=(
        "task=Lift",
        "task=Cartpole policy=mlp seed=1 max_iterations=100 device=cpu",
        "task=Reach trajopt.horizon=5 trajopt.solver=theseus env.sim.dt=0.005",
        "task=walker-walk learner=model_based",
        "learner=model_based --help",
        "task=Cartpole resume=latest max_iterations=300",
        "task=Isaac-Ant-Direct num_envs=4096 device=cuda:0 logger=wandb wandb.mode=offline",
        "-m task=Cartpole policy=trajopt,mlp seed=1,2,3",
        "-m task=Cartpole seed='range(5)' launcher=slurm hydra.launcher.partition=gpu",
        "-m task=Reach sweeper=optuna launcher=joblib hydra.launcher.n_jobs=4",
    ),
    task_defaults="difftori_isaac.run.build:load_task_defaults",
    multirun=("difftori_isaac.run.sweep_plan:SweepConfig", "difftori_isaac.run.sweep:sweep"),
)

if __name__ == "__main__":
    sys.exit(main())
