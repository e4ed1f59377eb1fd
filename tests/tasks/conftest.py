from pathlib import Path

import pytest

from mobilevit_jax.data.prepare import prepare


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A data directory that holds `shapes/tiny`."""
    directory = tmp_path_factory.mktemp("data")
    prepare("shapes/tiny", data_dir=directory)
    return directory
