"""List the tasks."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="list_tasks.py",
    summary=(
        "Lists every task that task= takes: this project's, Isaac Lab's, those of other installed packages and the "
        "DeepMind Control suite's."
    ),
    schema="difftori_isaac.run.tasks:ListConfig",
    run="difftori_isaac.run.tasks:list_tasks",
    examples=("", "filter=franka"),
)

if __name__ == "__main__":
    sys.exit(main())
