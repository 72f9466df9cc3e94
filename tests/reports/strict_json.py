"""JSON as other languages read it."""

import json


def strict(text: str) -> dict:
    """JSON as the standard has it: NaN and infinities are refused."""

    def refuse(word: str):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)
