"""Unpacking: byte-exact, in bounded pieces, and with an eye on the end."""

from __future__ import annotations

import gzip
import os
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.archive.inflate import Inflate

DATA = os.urandom(5000) + bytes(3 << 20)


def unpack(packed: bytes, step: int) -> tuple[bytes, bool]:
    inflate = Inflate()
    pieces = [
        piece
        for at in range(0, len(packed), step)
        for piece in inflate.feed(packed[at : at + step])
    ]
    assert all(len(piece) <= 1 << 20 for piece in pieces)
    return b"".join(pieces), inflate.ended


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(DATA),
        zlib.compress(DATA),
        gzip.compress(DATA[:100]) + gzip.compress(DATA[100:]),
        gzip.compress(DATA) + bytes(7),
        gzip.compress(DATA) + b"padding",
    ],
    ids=["gzip", "deflate", "two members", "zeros behind", "words behind"],
)
@pytest.mark.parametrize("step", [1, 100, 1 << 30])
def test_what_was_packed_comes_out(packed: bytes, step: int) -> None:
    """However it comes in, what comes out is what was packed, in pieces of bounded size."""
    assert unpack(packed, step) == (DATA, True)


@pytest.mark.parametrize("piece", [1, 7, 300])
@pytest.mark.parametrize("step", [1, 50, 1 << 20])
def test_no_piece_is_larger_than_allowed(
    monkeypatch: pytest.MonkeyPatch, piece: int, step: int
) -> None:
    """What is unpacked but did not fit into a piece comes in the next one."""
    monkeypatch.setattr("kie_mj_async.archive.inflate._PIECE", piece)
    inflate = Inflate()
    data = bytes(9000) + os.urandom(100)
    packed = gzip.compress(data)
    pieces = [
        one for at in range(0, len(packed), step) for one in inflate.feed(packed[at : at + step])
    ]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= piece
    assert inflate.ended


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(1, 6000))
def test_a_cut_shows(step: int, cut: int) -> None:
    """Without its last byte, or many of them, it has not ended."""
    packed = gzip.compress(DATA[:5000])
    data, ended = unpack(packed[: max(0, len(packed) - cut)], 10**step)
    assert DATA.startswith(data)
    assert not ended


def test_a_second_member_that_is_cut_shows() -> None:
    """The end of one member is not the end, once another has begun."""
    assert not unpack(gzip.compress(b"one") + gzip.compress(b"two")[:-1], 7)[1]


@pytest.mark.parametrize(
    "packed",
    [b"hello", b"\x1f\x8bhello", gzip.compress(DATA)[:-8] + bytes(8)],
    ids=["no gzip", "a header alone", "a wrong checksum"],
)
def test_garbage_is_an_error(packed: bytes) -> None:
    """What was never packed, or was damaged, is not unpacked in silence."""
    with pytest.raises(zlib.error):
        unpack(packed, 100)


def test_small_members_are_not_copied_over_and_over() -> None:
    """A host that packs nothing, many thousand times, keeps nobody busy; what it sent is counted."""
    packed = gzip.compress(b"") * 100_000
    inflate = Inflate()
    began = time.process_time()
    assert not any(inflate.feed(packed))
    assert time.process_time() - began < 2
    assert inflate.taken == len(packed)
