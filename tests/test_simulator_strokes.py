"""Strokes that every manner uses."""

from __future__ import annotations

from PIL import Image

from kie_mj_async.simulator import strokes


def test_a_light_has_no_edge() -> None:
    """A glow fades to nothing, so that no box shows around it."""
    light = strokes.light()
    rim = [light.getpixel((place, 0)) for place in range(light.width)]
    assert set(rim) == {0}
    assert light.getpixel((light.width // 2, light.height // 2)) == 255


def test_gradients_go_from_colour_to_colour() -> None:
    """A gradient has the first colour at the top and the other one at the bottom."""
    image = strokes.gradient(4, 64, (0, 0, 0), (200, 100, 50))
    top, bottom = image.getpixel((0, 0)), image.getpixel((3, 63))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert max(top) < 4
    assert max(abs(a - b) for a, b in zip(bottom, (200, 100, 50), strict=True)) < 4


def test_strokes_may_reach_beyond_the_image() -> None:
    """Glows, discs and mist that lie partly outside are cut off."""
    image = Image.new("RGB", (20, 20))
    strokes.glow(image, -5, 30, 40, colour=(255, 0, 0), strength=1)
    strokes.disc(image, 19, 19, 6, (0, 255, 0))
    strokes.mist(image, 15, 30, (0, 0, 255))
    assert image.size == (20, 20)
    assert len(image.getcolors(400) or []) > 10
