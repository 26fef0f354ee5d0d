"""The project's Isaac Lab tasks. Importing this package registers them with gymnasium and imports no simulator."""

from difftori_isaac.tasks import cartpole as cartpole
