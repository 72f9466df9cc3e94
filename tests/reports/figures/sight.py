"""Colours as people with a colour deficiency see them, on a light page and on a dark one, and how far apart they are."""

import numpy as np

# Linear RGB -> linear RGB for a total deficiency (Machado, Oliveira and Fernandes 2009, table 1, severity 1).
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
# sRGB -> sRGB of hue-rotate(180deg), as CSS filters define it.
HALF_TURN = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
INVERTED = 0.88  # of the dark page's filter
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ @ np.ones(3)


def rgb(colour: str) -> np.ndarray:
    """#rrggbb as three numbers of sRGB between 0 and 1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def dark(colour: np.ndarray) -> np.ndarray:
    """What the dark page's filter, invert(.88) hue-rotate(180deg), makes of a colour."""
    inverted = INVERTED - (2 * INVERTED - 1) * colour
    return np.clip(HALF_TURN @ inverted, 0, 1)


def seen(colour: np.ndarray, kind: str) -> np.ndarray:
    """A colour in CIELAB as it is seen with a kind of cones."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    share = TO_XYZ @ np.clip(SIGHT[kind] @ linear, 0, 1) / WHITE
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(one: np.ndarray, other: np.ndarray, kind: str) -> float:
    """How far apart two colours are seen: their distance in CIELAB, of which 2 can just be told."""
    return float(np.linalg.norm(seen(one, kind) - seen(other, kind)))
