"""Every version is pinned, in the two places that uv and pip read, without naming a registry host."""

from __future__ import annotations

from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pins(pyproject):
    return pyproject["tool"]["uv"]["constraint-dependencies"]


def test_every_installed_version_is_the_pinned_one(pins):
    pinned = [Requirement(pin) for pin in pins]
    expected = {
        canonicalize_name(pin.name): str(pin.specifier) for pin in pinned if pin.marker is None or pin.marker.evaluate()
    }
    installed = {canonicalize_name(found.name): f"=={found.version}" for found in distributions()}
    assert installed.pop("difftori-isaac")
    assert {name: version for name, version in installed.items() if expected.get(name) != version} == {}


def test_the_pins_of_pip_are_those_of_uv(root, pins):
    lines = (root / "requirements.txt").read_text().splitlines()
    library, everything = ({pin.partition(" ;")[0] for pin in some} for some in (lines, pins))  # markers may be wider
    assert library and library <= everything


def test_pins_are_exact_and_name_no_host(pins):
    for pin in map(Requirement, pins):
        (specifier,) = pin.specifier
        assert (specifier.operator, pin.url) == ("==", None), f"{pin} is not an exact, host-free pin"


def test_direct_dependencies_are_among_the_pins(root, pyproject):
    library = map(Requirement, (root / "requirements.txt").read_text().splitlines())
    direct = map(Requirement, pyproject["project"]["dependencies"])
    assert {pin.name for pin in direct} <= {pin.name for pin in library}
