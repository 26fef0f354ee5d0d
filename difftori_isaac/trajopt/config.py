"""Settings of a trajectory-optimization layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Integral
from typing import Literal, get_args

from difftori_isaac.trajopt import bounds
from difftori_isaac.trajopt.bounds import Bound

SolverName = Literal["gauss_newton", "theseus", "mppi", "warp"]
ObjectiveName = Literal["least_squares", "return", "return_residual"]
BackwardMode = Literal["implicit", "truncated", "unroll", "dlm"]
HessianName = Literal["gauss_newton", "exact"]
LatentKernelName = Literal["torch", "warp"]

DAMPING_MIN, DAMPING_MAX = 1e-7, 1e7
"""Between these the damping of every environment stays."""

_NAMES = {
    "solver": get_args(SolverName),
    "objective": get_args(ObjectiveName),
    "backward_mode": get_args(BackwardMode),
    "hessian": get_args(HessianName),
    "latent_kernel": get_args(LatentKernelName),
}
_SOLVERS = {
    "least_squares": get_args(SolverName),
    "return": ("gauss_newton", "mppi"),
    "return_residual": ("gauss_newton", "theseus"),
}


def _check_integer(name: str, value: object, low: int) -> None:
    if not isinstance(value, Integral) or value < low:
        raise ValueError(f"trajopt.{name} is {value!r}; allowed: an integer of at least {low}")


@dataclass(frozen=True, kw_only=True)
class MppiConfig:
    """Settings of ``trajopt.solver=mppi``.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    num_samples: int = 512
    """Sampled plans per iteration and environment."""
    num_elites: int = 64
    """Best samples that the Gaussian is refitted to."""
    temperature: float = 0.05
    """Temperature λ of the weights ``exp((min C − C) / λ)`` of the elites; what TD-MPC calls so is 1/λ.

    Its 2 is for returns as they are; here costs are in units of the spread of values, where 2 weighs elites alike.
    """
    std_min: float = 0.05
    """Smallest standard deviation of the samples, in the units of the action."""
    std_max: float = 1.0
    """Largest standard deviation of the samples and that of the first iteration, in the units of the action."""
    momentum: float = 0.1
    """Share of the previous mean that an iteration keeps."""
    seed: int = 0
    """Seed of the noise, which is the same for every environment and in every call."""
    max_batch: int = 65536
    """Plans whose cost is computed at once, over all environments; bounds the memory."""

    def __post_init__(self) -> None:
        for name, low in (("num_samples", 2), ("num_elites", 1), ("seed", 0), ("max_batch", 1)):
            _check_integer(f"mppi.{name}", getattr(self, name), low)
        if self.num_elites > self.num_samples:
            raise ValueError(
                f"trajopt.mppi.num_elites is {self.num_elites}; allowed: at most "
                f"trajopt.mppi.num_samples = {self.num_samples}"
            )
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"trajopt.mppi.temperature is {self.temperature}; allowed: a finite number above 0")
        if not 0.0 < self.std_min <= self.std_max < float("inf"):
            raise ValueError(
                f"trajopt.mppi.std_min is {self.std_min} and trajopt.mppi.std_max is {self.std_max}; "
                "allowed: finite numbers above 0, std_min at most std_max"
            )
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"trajopt.mppi.momentum is {self.momentum}; allowed: at least 0, below 1")


@dataclass(frozen=True, kw_only=True)
class TrajOptConfig:
    """Settings of a :class:`~difftori_isaac.trajopt.layer.TrajOptLayer`.

    Raises:
        ValueError: If a value is outside its range; the message names the value and what is allowed.
    """

    solver: SolverName = "gauss_newton"
    """Solver backend."""
    objective: ObjectiveName = "least_squares"
    """Squared residuals, a return by its exact Hessian, or ``return_offset`` less the return as the one residual."""
    return_offset: float = 1000.0
    """Offset of ``objective=return_residual``, above any return; that of the published DiffTORI."""
    horizon: int = 3
    """Number of planned actions [steps]."""
    iterations: int = 3
    """Iterations of one solve."""
    hessian_every: int = 1
    """Iterations from one Gauss-Newton Hessian to the next; between them the gradient alone is new (Shamanskii).

    Of ``solver=gauss_newton``; the others have a schedule of their own.
    """
    damping: float = 1e-3
    """Initial Levenberg-Marquardt damping, relative to the mean diagonal of the Gauss-Newton Hessian."""
    damping_up: float = 10.0
    """Factor on the damping of an environment whose step was rejected."""
    damping_down: float = 0.1
    """Factor on the damping of an environment whose step was accepted; with ``gauss_newton`` the smallest factor, of
    steps whose cost falls as predicted, and up to 2 where it falls by less."""
    tolerance: float = 1e-2
    """An environment has converged when a Newton step moves no action by more than this, in the action's units."""
    prior_weight: float = 1.0
    """Weight w of the prior block ``½ Σ_t ‖w (a_t − ā_t)‖²`` around the prior plan ā."""
    action_rate_weight: float = 0.0
    """Weight v of the action-rate block ``½ Σ_{t≥1} ‖v (a_t − a_{t−1})‖²``, which smooths the plan."""
    discount: float | None = None
    """Discount γ of the residuals along the horizon; null is that of the learner, 0.99 in a layer on its own."""
    action_low: Bound = None
    """Lower bound of all action components, or a list of one per component, in their units; null is unbounded."""
    action_high: Bound = None
    """Upper bound of all action components, or a list of one per component, in their units; null is unbounded."""
    backward_mode: BackwardMode = "implicit"
    """How gradients pass through the solution; ``solver=mppi`` has one way of its own, through the prior plan."""
    hessian: HessianName = "gauss_newton"
    """Hessian of the implicit gradient of squared residuals; that of ``objective=return`` is always exact."""
    train_through_plan: bool = True
    """Whether plans carry gradients; without, they are executed all the same (the objective-mismatch ablation)."""
    backward_iterations: int = 2
    """Differentiated iterations of ``backward_mode=truncated``."""
    dlm_epsilon: float = 1e-2
    """Perturbation of ``backward_mode=dlm``; solutions must have converged to well below it."""
    latent_kernel: LatentKernelName = "torch"
    """What computes costs, and gradients between two Hessians, that autograd does not record."""
    cuda_graph: bool = True
    """Whether what ``solver=gauss_newton`` computes on a GPU without autograd is captured once for each batch size and
    replayed, and so the optimizer steps of the model-based learner: one launch instead of hundreds, for memory that
    stays taken."""
    mppi: MppiConfig = field(default_factory=MppiConfig)
    """Settings of ``solver=mppi``."""

    def __post_init__(self) -> None:
        for name in ("action_low", "action_high"):
            bound = getattr(self, name)
            bound = bound.tolist() if hasattr(bound, "tolist") else bound  # of NumPy, or a tensor
            object.__setattr__(self, name, tuple(bound) if isinstance(bound, list) else bound)
        if isinstance(self.mppi, dict):
            object.__setattr__(self, "mppi", MppiConfig(**self.mppi))
        for name, allowed in _NAMES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"trajopt.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.solver not in _SOLVERS[self.objective]:
            raise ValueError(
                f"trajopt.objective is {self.objective!r}, which trajopt.solver={self.solver} cannot optimise; "
                f"allowed: trajopt.solver={' or trajopt.solver='.join(_SOLVERS[self.objective])}"
            )
        for name in ("horizon", "iterations", "hessian_every", "backward_iterations"):
            _check_integer(name, getattr(self, name), 1)
        for name in ("damping", "tolerance", "prior_weight", "dlm_epsilon"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"trajopt.{name} is {getattr(self, name)}; allowed: a finite number above 0")
        if not 0.0 <= self.action_rate_weight < float("inf"):
            raise ValueError(
                f"trajopt.action_rate_weight is {self.action_rate_weight}; allowed: a finite number of at least 0"
            )
        if not self.damping_up > 1.0 > self.damping_down > 0.0:
            raise ValueError(
                f"trajopt.damping_up is {self.damping_up} and trajopt.damping_down is {self.damping_down}; "
                "allowed: damping_up above 1, damping_down between 0 and 1"
            )
        if not isfinite(self.return_offset):
            raise ValueError(f"trajopt.return_offset is {self.return_offset}; allowed: a finite number")
        if self.discount is not None and not 0.0 < self.discount <= 1.0:
            raise ValueError(f"trajopt.discount is {self.discount}; allowed: above 0, at most 1, or null")
        bounds.check(self.action_low, self.action_high)
        if self.solver == "theseus" and self.bounded:
            raise ValueError(
                "trajopt.solver is 'theseus', which has no bounds, but trajopt.action_low or trajopt.action_high is "
                "set; allowed: trajopt.solver=gauss_newton, or, but for learner=model_based, whose plans have bounds, "
                "trajopt.action_low=null trajopt.action_high=null"
            )
        if self.backward_mode == "dlm" and self.solver != "theseus":
            raise ValueError(
                f"trajopt.backward_mode is 'dlm', which trajopt.solver={self.solver} does not have; "
                "allowed: implicit, truncated, unroll, or trajopt.solver=theseus"
            )
        if self.solver == "mppi" and self.backward_mode != "implicit":
            raise ValueError(
                f"trajopt.backward_mode is {self.backward_mode!r}, but the samples of trajopt.solver=mppi have no "
                "gradient; allowed: trajopt.backward_mode=implicit, or trajopt.solver=gauss_newton"
            )
        if self.solver == "theseus" and self.backward_mode == "implicit" and self.hessian == "exact":
            raise ValueError(
                "trajopt.hessian is 'exact', but trajopt.solver=theseus differentiates with its own Gauss-Newton "
                "Hessian; allowed: trajopt.hessian=gauss_newton"
            )
        if self.solver == "warp":
            for name, allowed in (("backward_mode", "implicit"), ("action_rate_weight", 0.0)):
                if getattr(self, name) != allowed:
                    raise ValueError(
                        f"trajopt.{name} is {getattr(self, name)!r}, which trajopt.solver=warp cannot do; "
                        f"allowed: trajopt.{name}={allowed}, or trajopt.solver=gauss_newton"
                    )
        if self.latent_kernel == "warp":
            if self.objective != "least_squares" or self.solver not in ("gauss_newton", "mppi"):
                raise ValueError(
                    f"trajopt.latent_kernel is 'warp', but trajopt.objective={self.objective} and "
                    f"trajopt.solver={self.solver}; allowed: trajopt.objective=least_squares with "
                    "trajopt.solver=gauss_newton or trajopt.solver=mppi"
                )
            if self.solver == "gauss_newton" and self.hessian_every == 1:
                raise ValueError(
                    "trajopt.latent_kernel is 'warp', which computes gradients between two Hessians, but "
                    "trajopt.hessian_every is 1; allowed: trajopt.hessian_every of at least 2"
                )

    @property
    def gamma(self) -> float:
        """The discount that plans have."""
        return 0.99 if self.discount is None else self.discount

    def discounted_by(self, discount: float | None) -> TrajOptConfig:
        """This configuration with the discount of a learner, unless it has its own.

        Raises:
            ValueError: If it is 0.
        """
        if self.discount is None and discount == 0.0:
            raise ValueError("the discount of the learner (learner.gamma or learner.discount) is 0; allowed: above 0")
        return self if self.discount is not None else replace(self, discount=discount)

    @property
    def differentiates_optima(self) -> bool:
        """Whether gradients are those of optima, and mean nothing before a plan has converged."""
        return self.backward_mode in ("implicit", "dlm")

    @property
    def implicit_hessian(self) -> HessianName:
        """Hessian of the implicit gradient."""
        return "exact" if self.objective == "return" else self.hessian

    @property
    def bounded(self) -> bool:
        """Whether any action component has a bound."""
        low, high = bounds.entries(self.action_low, float("-inf")), bounds.entries(self.action_high, float("inf"))
        return any(isfinite(entry) for entry in low + high)
