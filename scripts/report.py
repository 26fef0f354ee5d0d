"""Show a run, or several, as one page."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="report.py",
    summary="Writes a page for a browser: numbers, curves, settings, evaluation and video of a run, or a comparison.",
    schema="difftori_isaac.run.report:ReportConfig",
    run="difftori_isaac.run.report:report",
    examples=(
        "run_dir=runs/Cartpole/trajopt/first",
        "runs='runs/Cartpole/*/*' output=cartpole.html",
        "runs=[runs/a,runs/b] label=trajopt.solver",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
