"""Demonstrations that the tests of imitation share."""

import pytest
from small_demos import write_demos


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    return write_demos(tmp_path_factory.mktemp("demos") / "demos.hdf5")
