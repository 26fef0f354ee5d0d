"""The project's Isaac Lab tasks. Importing this package registers them with gymnasium and imports no simulator."""

from difftori_isaac.tasks import ant as ant
from difftori_isaac.tasks import cartpole as cartpole
from difftori_isaac.tasks import lift as lift
from difftori_isaac.tasks import reach as reach
