"""Colours that go together."""

from __future__ import annotations

import pytest

from kie_mj_async.simulator import colours


def brightness(colour: colours.Colour) -> float:
    red, green, blue = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("lightness", "expected"), [(0.0, (0, 0, 0)), (1.0, (255, 255, 255)), (0.5, (99, 99, 99))]
)
def test_greys(lightness: float, expected: colours.Colour) -> None:
    """Without chroma there are greys, whatever the hue."""
    assert colours.oklch(lightness, 0, 123) == expected


@pytest.mark.parametrize("prompt", ["a fox", "a lighthouse", "rain", "tea", "7", ""])
def test_ramps_rise(prompt: str) -> None:
    """A ramp goes from dark to light without a step back."""
    ramp = colours.palette(prompt, "x").ramp
    levels = [brightness(colour) for colour in ramp]
    assert levels == sorted(levels)
    assert levels[0] < 40
    assert levels[-1] > 200


def test_places_on_the_ramp() -> None:
    """Places are between the ramp's ends, and beyond them the ends themselves."""
    palette = colours.palette("a fox", "x")
    assert palette.at(-1) == palette.at(0) == palette.ramp[0]
    assert palette.at(2) == palette.at(1) == palette.ramp[-1]
    assert colours.mix((0, 0, 0), (10, 20, 30), 0.5) == (5, 10, 15)


def test_a_prompt_has_its_mood() -> None:
    """Pictures of one prompt have similar colours; those of two prompts do not share them."""
    one, other = colours.palette("a fox", "1"), colours.palette("a fox", "2")
    assert one.night == other.night
    assert one.ramp != other.ramp
    assert all(
        abs(a - b) < 60
        for first, second in zip(one.ramp, other.ramp, strict=True)
        for a, b in zip(first, second, strict=True)
    )
