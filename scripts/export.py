"""Write a policy for use without this project."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="export.py",
    summary="Writes the deterministic policy of a checkpoint as one file for TorchScript, ONNX or torch.export; checks "
    "it against the policy and prints its latency.",
    schema="difftori_isaac.run.config:ExportConfig",
    run="difftori_isaac.run.export:export",
    examples=(
        "task=Lift",
        "run_dir=runs/Lift/trajopt/first checkpoint=best format=all output=deploy",
        "task=Cartpole policy=mlp format=onnx",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
