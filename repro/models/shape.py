"""The shape of a randomly initialised network, as `Scale.model` spells it; parsing it imports no library."""

from repro.errors import UserError


def parse_shape(shape: str) -> tuple[int, int, int, int]:
    """Hidden size, layers, heads and intermediate size of "gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"."""
    parts = shape.removeprefix("gpt-neox:").split("/")
    if (
        len(parts) == 4
        and all(part.isdecimal() and int(part) > 0 for part in parts)
        and int(parts[0]) % int(parts[2]) == 0
    ):
        return tuple(map(int, parts))
    raise UserError(
        f"{shape!r} is neither a model's folder nor a shape; a shape is gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE in whole "
        "numbers, HIDDEN a multiple of HEADS, as gpt-neox:128/6/4/512 (Pythia-14m)"
    )
