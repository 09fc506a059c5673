"""A local KIE.ai with the service's limits, for ``--simulate``, ``kie-mj simulate`` and the tests.

It speaks the contract, keeps the quota, charges credits, takes as long as the real service (or a
fraction of it), draws pictures, and breaks in the ways the real one does when asked to. It shares
nothing with the client but the values, so that the two cannot be wrong in the same way.

The map: ``world.py`` decides, and says so in ``verdicts.py`` (``contract.py`` what is valid,
``inputs.py`` which images a create names, ``tasks.py`` how long and how much, ``uploads.py`` what is
kept, ``callbacks.py`` what is reported when, ``faults.py`` what breaks, ``rolling.py`` the window,
``books.py`` what was seen, ``chance.py`` repeatable chance); ``answers.py``, ``ranges.py`` and
``pictures.py`` (with ``colours.py``, ``manners.py``, ``strokes.py``) make what is sent. All of that
is pure. ``server.py``, ``api.py``, ``files.py``, ``upload_api.py``, ``courier.py``, ``shell.py``,
``media.py``, ``shelf.py`` and ``journal.py`` are the shells around sockets, threads and the disk.
"""

from __future__ import annotations

from .faults import KINDS, Faults
from .server import Simulator
from .world import World

__all__ = ["KINDS", "Faults", "Simulator", "World"]
