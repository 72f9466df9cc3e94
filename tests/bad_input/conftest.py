"""A working folder of one's own, without a store, a cache or a key."""

import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("REPRO_CACHE", "MLFLOW_TRACKING_URI", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "repro.engine.slurm.engine.which", lambda name: None
    )  # here is no cluster, whatever is installed
    return folder
