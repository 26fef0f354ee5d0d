"""The example of docs/trajopt.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "trajopt.md"


def test_example_plans_and_differentiates(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    assert namespace["solution"].converged.float().mean() > 0.95
    assert namespace["model"].mass.grad.isfinite() and namespace["model"].mass.grad != 0
    assert "converged" in capsys.readouterr().out
