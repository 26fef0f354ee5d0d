"""The examples of docs/trajopt.md and docs/examples.md run as printed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_example_plans_and_differentiates(capsys):
    (code,) = blocks("trajopt.md")
    namespace: dict = {}
    exec(code, namespace)
    assert namespace["solution"].converged.float().mean() > 0.95
    assert namespace["model"].mass.grad.isfinite() and namespace["model"].mass.grad != 0
    assert "converged" in capsys.readouterr().out


@pytest.mark.slow
def test_examples_identify_plan_learn_and_differentiate(tmp_path, monkeypatch, capsys):
    script = tmp_path / "examples.py"  # a file, because Warp reads the source of its functions
    script.write_text("\n".join(blocks("examples.md")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = runpy.run_path(str(script))
    assert "cart 1.000 kg, pole 0.300 kg" in capsys.readouterr().out
    assert abs(namespace["executed"][-1, 2]) < 0.2
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert namespace["idle"] < -50.0 and namespace["learned"] > -4.0 and namespace["known"] > -1.0
    assert namespace["thrust_by_mass"] > 9.81  # to hover takes 9.81 N/kg, to rise takes more
    errors = {name: namespace["prediction_error"](model) for name, model in namespace["fitted"].items()}
    returns = {name: namespace["mean_return"](model) for name, model in namespace["fitted"].items()}
    assert errors["plans"] > 3.0 * errors["prediction"]
    assert abs(returns["plans"] - returns["the truth"]) < 0.1 < returns["plans"] - returns["prediction"]
