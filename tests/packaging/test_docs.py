"""The pages say what is there: links lead somewhere, commands are those that run."""

from __future__ import annotations

import re

import pytest

LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def pages(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def test_links_between_pages_lead_to_files(root):
    dead = [
        f"{page.name}: {target}"
        for page in pages(root)
        for target in LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_ci_runs_the_test_command_of_the_readme(root):
    assert "```bash\nuv run pytest\n```" in (root / "README.md").read_text()
    assert "\nstage uv run pytest\n" in (root / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", ["requires", "torch", "theseus-ai"])
def test_readme_pip_recipe_has_the_pinned_versions(root, pyproject, name):
    readme = (root / "README.md").read_text()
    (setuptools,) = pyproject["build-system"]["requires"]
    wanted = (
        setuptools
        if name == "requires"
        else next(pin for pin in (root / "requirements.txt").read_text().splitlines() if pin.startswith(f"{name}=="))
    )
    assert f" {wanted}" in readme
