"""The simulator's pictures."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from PIL import Image

from kie_mj_async.simulator import manners, pictures
from kie_mj_async.simulator.pictures import Sketch

PROMPTS = [f"prompt {number}" for number in range(24)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_picture_is_a_jpeg_of_its_size(prompt: str) -> None:
    """Whatever the prompt, there is a complete JPEG of the size asked for."""
    content = pictures.draw(Sketch(prompt, "task/0", 64, 48))
    image = Image.open(io.BytesIO(content))
    image.load()
    assert (image.format, image.size) == ("JPEG", (64, 48))
    assert len(image.getcolors(64 * 48) or []) > 20


def test_all_manners_occur() -> None:
    """A couple of dozen prompts are painted in every manner there is."""
    picked = {pictures.manner_of(prompt) for prompt in PROMPTS}
    assert picked == set(manners.MANNERS)


def test_pictures_repeat_and_differ() -> None:
    """The same sketch gives the same bytes; another index another picture."""
    first = Sketch("a fox", "task/0", 64, 64)
    assert pictures.draw(first) == pictures.draw(first)
    assert pictures.draw(first) != pictures.draw(Sketch("a fox", "task/1", 64, 64))


def test_bytes_repeat_across_processes() -> None:
    """Nothing in a picture depends on the process it is drawn in."""
    code = (
        "from kie_mj_async.simulator.pictures import *\n"
        "import hashlib\n"
        "for prompt in ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'):\n"
        "    print(hashlib.sha256(draw(Sketch(prompt, 't/0', 64, 64))).hexdigest())\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 1), (64, 64)), ((16, 9), (64, 36)), ((1, 2), (32, 64)), ((2, 3), (43, 64))],
)
def test_sizes_keep_the_ratio(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """The longer side has the pixels asked for."""
    assert pictures.size(shape, 64) == expected


def test_full_size_pictures_are_of_ordinary_weight() -> None:
    """A picture at full size weighs about what a real one's preview does."""
    weight = len(pictures.draw(Sketch("a fox in the snow", "task/0", 1024, 1024)))
    assert 20_000 < weight < 200_000


def test_without_pillow_there_are_pngs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow is missing there are valid PNGs, unlike for each result."""
    pictures.suffix.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    try:
        assert pictures.suffix() == "png"
        first = pictures.draw(Sketch("a fox", "task/0", 64, 36))
        second = pictures.draw(Sketch("a fox", "task/1", 64, 36))
    finally:
        monkeypatch.undo()
        pictures.suffix.cache_clear()
    image = Image.open(io.BytesIO(first))
    image.load()
    assert (image.format, image.size) == ("PNG", (64, 36))
    assert first != second
