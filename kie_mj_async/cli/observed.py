"""OpenTelemetry on the command line: where a program's environment has set up an SDK, it is told.

``opentelemetry-instrument kie-mj ...`` does that, and so may a ``sitecustomize`` of yours. Nothing is
imported where nobody has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..events import Event


def telemetry() -> Callable[[Event], None] | None:
    """Who makes spans and metrics of events; ``None`` where no SDK was loaded before us."""
    if "opentelemetry.sdk" not in sys.modules:
        return None
    from ..telemetry import Telemetry

    return Telemetry()
