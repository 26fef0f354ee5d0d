"""Write a new task."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="new_task.py",
    summary="Writes a task that trains at once, and its test: a folder in tasks/, or an installable package.",
    schema="difftori_isaac.run.new_task:NewTaskConfig",
    run="difftori_isaac.run.new_task:new_task",
    examples=("name=MyReach robot=franka", "name=Balance robot=cartpole output=../my_tasks"),
)

if __name__ == "__main__":
    sys.exit(main())
