"""Where things lie, whichever folder a test is in."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
# Posts, comparisons and a tokenizer that are too large for the repository; tests that need them are skipped without.
SHARED = ROOT.parent / "shared"
