"""The shape of a randomly initialised network, as `Scale.model` spells it; parsing it imports no library."""

from repro.errors import UserError, quoted

MOST = (32_768, 512, 512, 262_144)  # of each size: above any network's of today


def parse_shape(shape: str) -> tuple[int, int, int, int]:
    """Hidden size, layers, heads and intermediate size of "gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE"."""
    parts = shape.removeprefix("gpt-neox:").split("/")
    sizes = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 7]
    fits = len(parts) == len(sizes) == 4 and all(0 < size <= most for size, most in zip(sizes, MOST, strict=True))
    if fits and sizes[0] % sizes[2] == 0:
        hidden, layers, heads, intermediate = sizes
        return hidden, layers, heads, intermediate
    raise UserError(
        f"{quoted(shape)} is neither a model's folder nor a shape; a shape is gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE, "
        "with HEADS a divisor of HIDDEN"
    )
