"""Write demonstrations."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="collect_demos.py",
    summary="Writes episodes of the deterministic policy of a checkpoint to an HDF5 file of robomimic's layout, which "
    "learner=imitation learns from.",
    schema="difftori_isaac.run.config:CollectConfig",
    run="difftori_isaac.run.collect:collect",
    examples=(
        "task=Reach num_demos=10",
        "run_dir=runs/Lift/trajopt/first checkpoint=best num_demos=100 min_return=10 output=lift.hdf5",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
