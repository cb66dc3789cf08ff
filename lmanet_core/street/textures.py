"""Surfaces: tileable textures.

A texel says how the polygon's own colour becomes the surface: `colour · m / 128 + (r, g, b)`. Plaster and leaves only modulate
(r = g = b = 0), glass replaces (m = 0). Textures are fixed to surfaces in metres, so they move with them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from lmanet_core.arrays import Float32Array, UInt8Array

(
    PLAIN, ASPHALT, SLABS, GRASS, LEAVES, HEDGE, BRICK, PLASTER, CONCRETE, BOARDS, RAILINGS, ROOF_TILES, CORRUGATED,
    CLOUDS, ROUND, GLASS, SHOP, BUS_SIDE, GRAVEL, STONE, TARPAULIN, FACADE,
) = range(22)  # fmt: skip
FACADES = 10  # FACADE … FACADE + FACADES − 1
TEXTURES = FACADE + FACADES

#: Metres that one tile of each texture covers.
TILE_M: tuple[float, ...] = (
    1.0, 8.0, 3.0, 7.0, 2.6, 1.8, 2.0, 5.0, 6.0, 1.6, 1.2, 2.4, 2.0, 1.0, 1.0, 3.0, 8.0, 6.0, 5.0, 3.2, 2.5,
    *[12.0] * FACADES,
)  # fmt: skip

#: Texels along a side of the smallest tile.
SMALLEST = 4

_UNIT = 128.0


def tile_noise(rng: np.random.Generator, side: int, *cells: int) -> Float32Array:
    """(side, side) smooth noise of unit deviation that tiles, one octave per number of cells."""
    total = np.zeros((side, side), np.float32)
    for weight, count in enumerate(cells, 1):
        coarse = np.pad(rng.standard_normal((count, count), np.float32), 3, mode="wrap")
        scale = side / count
        grid = np.mgrid[0:side].astype(np.float32) / scale + 3 - 0.5 + 0.5 / scale
        columns, rows = np.meshgrid(grid, grid)
        total += cv2.remap(coarse, columns, rows, cv2.INTER_CUBIC) / weight**0.5
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), np.float32)


def _modulate(m: Float32Array) -> UInt8Array:
    tile = np.zeros((*m.shape, 4), np.uint8)
    tile[..., 3] = np.clip(m * _UNIT, 0, 255)
    return tile


def draw_texture(texture: int, rng: np.random.Generator) -> UInt8Array:
    """One tile (side, side, 4) of a texture: r, g, b to add and m to multiply by."""
    if texture >= FACADE:
        return _facade(rng, texture - FACADE)
    return _PAINTERS[texture](rng)


def _plain(rng: np.random.Generator) -> UInt8Array:
    del rng
    return _modulate(np.ones((SMALLEST, SMALLEST), np.float32))


def _asphalt(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.05 * tile_noise(rng, 256, 3, 6) + 0.05 * tile_noise(rng, 256, 18, 40) + 0.07 * tile_noise(rng, 256, 100, 200)
    for _ in range(5):  # cracks
        path = np.cumsum(rng.normal(0, 7, (12, 2)) + rng.normal(0, 5, 2), axis=0) + rng.uniform(40, 216, 2)
        cv2.polylines(m, [np.asarray(path, np.int32)], False, 0.72, 1)
    return _modulate(m)


def _slabs(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.05 * tile_noise(rng, 192, 6, 96)
    step = int(rng.choice((32, 48, 24)))
    for row in range(0, 192, step):
        for column in range(0, 192, step):
            m[row : row + step, column : column + step] *= 1 + float(rng.normal(0, 0.05))
    m[::step] *= 0.72
    m[:, ::step] *= 0.72
    return _modulate(m)


def _grass(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.12 * tile_noise(rng, 256, 5, 11) + 0.16 * tile_noise(rng, 256, 80, 160)
    tile = _modulate(m)
    dry = np.clip(tile_noise(rng, 256, 4, 9) - 0.4, 0, 1)
    tile[..., 0] = dry * 34
    tile[..., 1] = dry * 18
    return tile


def _leaves(rng: np.random.Generator) -> UInt8Array:
    m = 0.95 + 0.2 * tile_noise(rng, 192, 7, 14) + 0.24 * tile_noise(rng, 192, 30, 60)
    return _modulate(np.maximum(m, 0.3))


def _hedge(rng: np.random.Generator) -> UInt8Array:
    m = 0.95 + 0.12 * tile_noise(rng, 128, 4, 9) + 0.26 * tile_noise(rng, 128, 26, 50)
    return _modulate(np.maximum(m, 0.3))


def _brick(rng: np.random.Generator) -> UInt8Array:
    side, height, width = 256, 16, 32
    m = np.full((side, side), 1.25, np.float32)
    for row in range(side // height):
        shift = (row % 2) * width // 2
        for column in range(side // width):
            left = column * width + shift
            tone = 1 + float(rng.normal(0, 0.13))
            columns = np.arange(left + 1, left + width - 1) % side
            m[row * height + 1 : (row + 1) * height - 1, columns] = tone
    return _modulate(m + 0.04 * tile_noise(rng, side, 128))


def _plaster(rng: np.random.Generator) -> UInt8Array:
    return _modulate(1 + 0.06 * tile_noise(rng, 128, 2, 5) + 0.035 * tile_noise(rng, 128, 60, 120))


def _concrete(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.07 * tile_noise(rng, 256, 3, 7) + 0.04 * tile_noise(rng, 256, 128)
    streaks = cv2.resize(rng.normal(0, 1, (1, 64)).astype(np.float32), (256, 256))
    m += 0.03 * streaks
    m[:, ::128] *= 0.7
    m[::128] *= 0.8
    return _modulate(m)


def _boards(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.04 * tile_noise(rng, 128, 32, 64)
    width = int(rng.choice((16, 32)))
    for left in range(0, 128, width):
        m[:, left : left + width] *= 1 + float(rng.normal(0, 0.1))
        m[:, left : left + 3] *= 0.4
    m[18:26] *= 0.82
    m[98:106] *= 0.82
    return _modulate(m)


def _railings(rng: np.random.Generator) -> UInt8Array:
    """Bars with the green and grey of what is behind showing through."""
    tile = np.zeros((128, 128, 4), np.uint8)
    behind = tile_noise(rng, 128, 6, 14)
    for channel, level in enumerate((86, 96, 74)):
        tile[..., channel] = np.clip(level + 22 * behind, 0, 255)
    step = int(rng.choice((16, 32)))
    for left in range(0, 128, step):
        tile[:, left : left + 5] = (0, 0, 0, 128)
    for row in (6, 116):
        tile[row : row + 7] = (0, 0, 0, 118)
    return tile


def _roof_tiles(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.06 * tile_noise(rng, 128, 4, 32)
    for row in range(0, 128, 16):
        m[row : row + 4] *= 0.72
        m[row + 4 : row + 16, (row // 16 % 2) * 8 :: 16] *= 0.85
    return _modulate(m)


def _corrugated(rng: np.random.Generator) -> UInt8Array:
    wave = 1 + 0.16 * np.sin(np.arange(128) * 2 * np.pi / 16)
    return _modulate(np.asarray(wave[None, :] + 0.03 * tile_noise(rng, 128, 3, 16), np.float32))


def _clouds(rng: np.random.Generator) -> UInt8Array:
    tile = np.zeros((256, 256, 4), np.uint8)
    cover = tile_noise(rng, 256, 4, 9, 18, 36, 70)
    amount = np.clip((cover - float(rng.uniform(-0.2, 0.9))) * 0.7, 0, 1) * float(rng.uniform(0.5, 0.95))
    tile[..., 3] = _UNIT * (1 - amount)
    shade = 238 - 26 * np.clip(tile_noise(rng, 256, 6, 14), -1, 1.5)
    for channel, tint in enumerate((1.0, 1.0, 1.01)):
        tile[..., channel] = np.clip(shade * amount * tint, 0, 255)
    return tile


def _round(rng: np.random.Generator) -> UInt8Array:
    """Shading across a pole or trunk: lit from the left."""
    del rng
    across = (np.arange(32) + 0.5) / 32
    m = 1.15 - 0.65 * np.abs(across - 0.35) / 0.65
    return _modulate(np.tile(m.astype(np.float32), (32, 1)))


def _glass(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.3 * tile_noise(rng, 64, 2, 4)
    tile = _modulate(m)
    tile[..., :3] = np.clip(18 * (m - 0.7), 0, 60)[..., None]
    return tile


def _shop(rng: np.random.Generator) -> UInt8Array:
    """Shop windows with a coloured band above; v runs up one storey (tiles are stretched to fit)."""
    side = 256
    tile = _modulate(0.75 + 0.05 * tile_noise(rng, side, 8, 64))
    x = 0
    while x < side - 20:
        width = int(rng.integers(50, 100))
        right = min(x + width, side) - 6
        sign = rng.integers(40, 230, 3)
        tile[200:244, x + 4 : right] = (*sign, 0)
        letters = int(rng.integers(3, 8))
        for i in range(letters):
            left = x + 12 + i * 9
            if left + 5 < right:
                tile[212:232, left : left + 5] = (*(255 - sign), 0)
        inside = rng.integers(25, 75, 3)
        tile[20:192, x + 6 : right - 2] = (*inside, 0)
        for _ in range(7):  # goods in the window
            gx, gy = int(rng.integers(x + 8, max(right - 14, x + 9))), int(rng.integers(24, 110))
            gw, gh = rng.integers(5, 14, 2)
            tile[gy : gy + gh, gx : min(gx + gw, right - 2)] = (*rng.integers(50, 190, 3), 0)
        x += width
    return tile


def _bus_side(rng: np.random.Generator) -> UInt8Array:
    """Windows of a bus or train with people and seats behind; v runs over the window band."""
    tile = _modulate(np.full((128, 256), 0.35, np.float32))
    for left in range(4, 256, 42):
        glass = np.array((44, 54, 64)) + rng.integers(-10, 16)
        tile[6:122, left : left + 36] = (*glass, 0)
        if rng.random() < 0.5:
            cv2.circle(tile, (left + int(rng.integers(10, 28)), 60), 9, (118, 92, 78, 0), -1)
        cv2.line(tile, (left + 4, 118), (left + 26, 30), (86, 98, 108, 0), 3)
    return np.asarray(cv2.resize(tile, (256, 256)), np.uint8)


def _gravel(rng: np.random.Generator) -> UInt8Array:
    return _modulate(1 + 0.1 * tile_noise(rng, 192, 4, 9) + 0.2 * tile_noise(rng, 192, 60, 120))


def _stone(rng: np.random.Generator) -> UInt8Array:
    side = 192
    m = np.full((side, side), 0.62, np.float32)
    for row in range(0, side, 24):
        left = 0
        while left < side:
            width = int(rng.integers(20, 46))
            m[row + 2 : row + 23, left + 1 : min(left + width, side) - 1] = 1 + float(rng.normal(0, 0.12))
            left += width
    return _modulate(m + 0.06 * tile_noise(rng, side, 24, 90))


def _tarpaulin(rng: np.random.Generator) -> UInt8Array:
    m = 1 + 0.05 * tile_noise(rng, 128, 3, 6)
    m[:, ::64] *= 0.75
    tile = _modulate(m)
    tile[48:84, 14:112] = (*rng.integers(60, 220, 3), 0)
    tile[58:74, 24:102] = (*rng.integers(0, 255, 3), 0)
    return tile


def _facade(rng: np.random.Generator, style: int) -> UInt8Array:
    """Four bays by four storeys of 3 m; the wall between windows keeps the house's colour."""
    side, cell = 384, 96
    wall = (_plaster, _plaster, _brick, _plaster, _concrete, _brick, _plaster, _concrete, _plaster, _stone)[style]
    tile = np.asarray(cv2.resize(wall(rng), (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    office = style in (4, 7)
    width = 80 if office else int(rng.integers(34, 52))
    height = 60 if office else int(rng.integers(48, 66))
    frame = (235, 235, 230, 0) if rng.random() < 0.65 else (92, 66, 48, 0)
    shutters = None if office or rng.random() < 0.6 else tuple(int(c) for c in rng.integers(30, 120, 3))
    arched = not office and rng.random() < 0.25
    balcony = not office and rng.random() < 0.3
    band = rng.random() < 0.4
    for storey in range(4):
        if band:
            stripe = tile[storey * cell : storey * cell + 6, :, 3]
            stripe[:] = np.minimum(stripe * 1.25, 255)
        for bay in range(4):
            left, low = bay * cell + (cell - width) // 2, storey * cell + 26
            _window(tile, rng, left, low, width, height, frame, office, arched)
            if shutters is not None:
                for edge in (left - 17, left + width + 3):
                    tile[low : low + height, edge : edge + 14] = (*shutters, 0)
                    tile[low : low + height : 5, edge : edge + 14] = (*[c // 2 for c in shutters], 0)
            if balcony and bay % 2 == 1:
                tile[low - 12 : low + 16, left - 14 : left + width + 14] = (96, 96, 98, 0)
                tile[low - 8 : low + 12, left - 12 : left + width + 12 : 5] = (40, 40, 44, 0)
                tile[low - 16 : low - 11, left - 18 : left + width + 18] = (150, 148, 142, 0)
    return tile


def _window(
    tile: UInt8Array,
    rng: np.random.Generator,
    left: int,
    low: int,
    width: int,
    height: int,
    frame: tuple[int, int, int, int],
    office: bool,
    arched: bool,
) -> None:
    """One window, its lower edge at row `low` (v runs up, so rows do too)."""
    right, high = left + width, low + height
    surround = tile[low - 4 : high + 4, left - 4 : right + 4, 3]
    surround[:] = np.minimum(surround * 1.22, 255)
    tile[low:high, left:right] = frame
    glass = np.array((58, 72, 88)) + rng.integers(-22, 26)
    inner = tile[low + 4 : high - 4, left + 4 : right - 4]
    ramp = np.linspace(0.75, 1.35, inner.shape[0])[:, None, None]  # the sky mirrors in the upper half
    inner[..., :3] = np.clip(glass * ramp, 0, 255)
    if rng.random() < 0.45:  # curtain or blind
        cloth = np.array((205, 198, 184)) - rng.integers(0, 60)
        depth = int(rng.uniform(0.2, 0.9) * inner.shape[0])
        inner[inner.shape[0] - depth :, :, :3] = cloth * 0.75
    if not office:
        middle = inner.shape[1] // 2
        inner[:, middle - 2 : middle + 2] = frame
        cross = int(inner.shape[0] * 0.68)
        inner[cross - 2 : cross + 2] = frame
    tile[low - 7 : low - 2, left - 6 : right + 6] = (176, 172, 166, 0)
    if arched:
        cv2.ellipse(tile, ((left + right) // 2, high), (width // 2, 8), 0, 0, 180, (60, 72, 84, 0), -1)


_PAINTERS: dict[int, Callable[[np.random.Generator], UInt8Array]] = {
    PLAIN: _plain,
    ASPHALT: _asphalt,
    SLABS: _slabs,
    GRASS: _grass,
    LEAVES: _leaves,
    HEDGE: _hedge,
    BRICK: _brick,
    PLASTER: _plaster,
    CONCRETE: _concrete,
    BOARDS: _boards,
    RAILINGS: _railings,
    ROOF_TILES: _roof_tiles,
    CORRUGATED: _corrugated,
    CLOUDS: _clouds,
    ROUND: _round,
    GLASS: _glass,
    SHOP: _shop,
    BUS_SIDE: _bus_side,
    GRAVEL: _gravel,
    STONE: _stone,
    TARPAULIN: _tarpaulin,
}
