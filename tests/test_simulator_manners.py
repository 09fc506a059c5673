"""The manners in which the simulator paints."""

from __future__ import annotations

from random import Random

import pytest

from kie_mj_async.simulator import colours, manners

MOODS = {colours.palette(prompt, "x").night: prompt for prompt in "abcdefgh"}


@pytest.mark.parametrize("night", [False, True])
@pytest.mark.parametrize("manner", manners.MANNERS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 3), (256, 128)])
def test_manners_fill_any_canvas(
    manner: manners.Manner, width: int, height: int, night: bool
) -> None:
    """Every manner fills a canvas of any size and in either mood."""
    palette = colours.palette(MOODS[night], "x")
    image = manner(manners.Canvas(width, height, palette, Random(1)))
    assert (image.size, image.mode) == ((width, height), "RGB")


def test_small_canvases_hold_less() -> None:
    """What could not be told apart on a small canvas is not drawn."""
    palette = colours.palette("a", "x")
    small, large = (manners.Canvas(side, side, palette, Random(1)) for side in (64, 1024))
    assert 3 <= small.many(100) < 20
    assert large.many(100) == 100
