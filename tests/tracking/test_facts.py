"""What a run says of the code that computes it: its commit, and how the working tree differed from that."""

import shutil
import subprocess

import pytest

from repro.tracking import facts


def git(folder, *words, given=None):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, input=given, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit, of which the facts are taken."""
    (tmp_path / "repro").mkdir()
    (tmp_path / "repro" / "loss.py").write_text("CLIP = 0.2\n")
    (tmp_path / "README.md").write_text("Words.\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    facts.changes_since_commit.cache_clear()
    yield tmp_path
    facts.changes_since_commit.cache_clear()


def test_a_clean_checkout_is_its_commit(checkout):
    (checkout / "README.md").write_text("Other words, which nothing runs.\n")
    assert facts.changes_since_commit() == ""
    assert facts.commit() == git(checkout, "rev-parse", "HEAD")[:12]


def test_the_patch_of_a_changed_checkout_gives_its_code_again(checkout, tmp_path_factory):
    (checkout / "repro" / "loss.py").write_text("CLIP = 0.3\n")
    (checkout / "repro" / "new.py").write_text("print('ü')\n")
    assert facts.commit().endswith("-dirty")
    again = tmp_path_factory.mktemp("again")
    git(again, "clone", "-q", str(checkout), "clone")
    git(again / "clone", "apply", given=facts.changes_since_commit())
    for name in ("loss.py", "new.py"):
        assert (again / "clone" / "repro" / name).read_text() == (checkout / "repro" / name).read_text()


def test_outside_of_a_checkout_there_is_no_commit(checkout):
    shutil.rmtree(checkout / ".git")
    assert facts.commit() == "not a git checkout" and facts.changes_since_commit() == ""
