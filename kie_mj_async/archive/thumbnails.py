"""Small pictures for the gallery, made from files on disk and kept by their content.

A thumbnail lies under the digest of the file that it was made from, so it is made once, however often
the page is. A picture that cannot be made small (Pillow is missing, it is damaged, or so large that
opening it could fill the memory) simply has none: the page shows the original.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs

from ..errors import WriteFailed, refusal
from ..jobs import SavedFile

SIDE: Final = 400
"""Pixels of a thumbnail's longer side."""
AT_ONCE: Final = 2
"""Pictures made at the same time: a gallery is built beside a run that needs the processor too."""

_KINDS: Final = (".webp", ".jpeg")
"""The best first; a Pillow without WebP makes the second."""
_QUALITY: Final = 80
_EFFORT: Final = 2
"""Of WebP's 0 to 6: above it files get hardly smaller, and take twice the time."""


@attrs.frozen
class Look:
    """What there is to show of one file.

    Attributes:
        there: Whether the file itself is on disk.
        thumbnail: The path of its thumbnail, or ``None``.
        made: Whether the thumbnail was made just now.
    """

    there: bool
    thumbnail: Path | None = None
    made: bool = False


class Thumbnails:
    """The thumbnails of a batch directory.

    Args:
        root: The directory that the files' paths are relative to.
        folder: Where thumbnails are kept.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def of(self, files: Iterable[SavedFile]) -> dict[str, Look]:
        """Look at files, by their paths, and make the thumbnails that are missing.

        Cancelling lets the pictures in hand be finished; the rest is made the next time.

        Raises:
            WriteFailed: The disk refused.
        """
        looks: dict[str, Look] = {}
        waiting = iter(tuple(files))

        async def work() -> None:
            for file in waiting:
                looks[file.path] = await anyio.to_thread.run_sync(
                    self._look, file, limiter=self._threads
                )

        try:
            async with anyio.create_task_group() as workers:
                for _ in range(AT_ONCE):
                    workers.start_soon(work)
        except* OSError as errors:
            first = next(_leaves(errors))
            message = f"{self._folder}: cannot be written: {refusal(first)}"
            raise WriteFailed(message) from None
        return looks

    def _look(self, file: SavedFile) -> Look:
        source = self._root / file.path
        if not _is_file(source):
            return Look(there=False)
        if not _worth_it(file):
            return Look(there=True)
        for kind in _KINDS:
            if (known := self._path(file, kind)).is_file():
                return Look(there=True, thumbnail=known)
        small = shrink(source)
        if small is None:
            return Look(there=True)
        content, kind = small
        path = self._path(file, kind)
        _put(content, path)
        return Look(there=True, thumbnail=path, made=True)

    def _path(self, file: SavedFile, kind: str) -> Path:
        return self._folder / file.sha256[:2] / f"{file.sha256}{kind}"


def shrink(source: Path) -> tuple[bytes, str] | None:
    """A picture made small: its bytes and their file extension.

    Args:
        source: A file that may be anything.

    Returns:
        ``None`` if it cannot be made small.
    """
    try:
        from PIL import Image, ImageOps, features
    except ImportError:
        return None
    try:
        with Image.open(source) as picture:
            # Pillow itself only warns up to twice this; a warning is of no use in a thread.
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                return None
            mode = picture.mode
            # Lets a JPEG be decoded at a fraction of its size, and shrinks it in place.
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
            upright = ImageOps.exif_transpose(picture)
            kind = _KINDS[0] if features.check("webp") else _KINDS[1]
            clear = kind == ".webp" and upright.has_transparency_data
            plain = upright.convert("RGBA" if clear else "RGB")
            out = io.BytesIO()
            options: dict[str, Any] = {"quality": _QUALITY}
            if kind == ".webp":
                options["method"] = _EFFORT
            if mode in ("RGB", "RGBA") and (profile := picture.info.get("icc_profile")):
                options["icc_profile"] = profile
            plain.save(out, "WEBP" if kind == ".webp" else "JPEG", **options)
    except Exception:  # whatever a damaged file makes a decoder raise: it is shown as it is
        return None
    return out.getvalue(), kind


def _worth_it(file: SavedFile) -> bool:
    """Whether a file is a picture that is larger than a thumbnail would be."""
    if not file.media_type.startswith("image/"):
        return False
    return file.width is None or file.height is None or max(file.width, file.height) > SIDE


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no way to it; the page says that it is not there
        return False


def _put(content: bytes, path: Path) -> None:
    """Bring a file under its name whole, or not at all. A crash may leave a part, no torn picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _leaves(group: BaseExceptionGroup[OSError]) -> Iterator[OSError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
