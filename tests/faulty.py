"""A fault in the code, without touching it: an artefact that is whole by its digests, and on which the next stage stumbles."""

import json
from pathlib import Path

from repro.engine import artefacts
from repro.stages import stage


def break_base(cache: Path) -> None:
    """Give the base model of a cache no attention head, so that SFT divides by zero."""
    (base,) = cache.glob("base-*[0-9a-f]")
    config = base / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_attention_heads": 0}))
    done = json.loads((base / stage.DONE).read_text())
    done["files"]["model/config.json"] = artefacts.file_digest(config)
    (base / stage.DONE).write_text(json.dumps(done))
    assert artefacts.cached(base)
