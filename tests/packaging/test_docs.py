"""The pages say what is there: links lead somewhere, commands are those that run."""

from __future__ import annotations

import re

import pytest

LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def pages(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def anchors(page):
    """What GitHub makes of the headings of a page."""
    headings = (heading.lower().replace(" ", "-") for heading in HEADING.findall(page.read_text()))
    return {re.sub(r"[^\w-]", "", heading) for heading in headings}


def test_links_between_pages_lead_to_files_and_headings(root):
    dead = []
    for page in pages(root):
        for name, anchor in LINK.findall(page.read_text()):
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{page.name}: {name}#{anchor}")
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
