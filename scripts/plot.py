"""Draw the curves of several runs."""

import sys

from difftori_isaac.run.cli import Command

main = Command(
    name="plot.py",
    summary="Draws the curves of several runs; seeds of the same variant become a mean and its 95% interval.",
    schema="difftori_isaac.run.plot:PlotConfig",
    run="difftori_isaac.run.plot:plot",
    examples=(
        "runs='runs/Cartpole/*/*' output=docs/cartpole.png",
        "runs=[runs/a,runs/b] y=success_rate label=trajopt.solver",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
