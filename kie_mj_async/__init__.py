"""Batch generation with Midjourney through KIE.ai: every image on disk, paid once.

``Client`` is where to begin::

    import kie_mj_async as mj

    async with mj.Client() as client:
        result = await client.generate("a fox in the snow", aspect_ratio="16:9")
        paths = await result.save("fox/")

        async for outcome in client.render(mj.read_prompts("prompts.txt"), out="renders/"):
            ...

What can be asked for: ``TextToImage``, ``ImageToImage``, ``StyleReference``, ``OmniReference``,
``ImageToVideo``, and of a task's results ``Upscale``, ``Vary``, ``Extend``; a ``Step`` of a chain says
what is to be done with the results of a job before it. Callbacks: ``Client.receiver``, ``Receiver``,
``verify_callback``. What comes of a job:
``Saved``, ``Failed``, ``Expired``, ``Unresolved``, ``Pending``, ``Abandoned``. How long it will take:
``Left``, from ``Task.eta`` and ``Batch.eta()``; how far a batch is: ``Progress``, from
``Batch.progress()``. Every error: ``KieError`` and below (``kie_mj_async.errors`` draws the tree).
What a client tells while it works: ``events``, to ``Client.subscribe`` and ``Client.events()``; for
OpenTelemetry, ``kie_mj_async.telemetry``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import events
from ._version import __version__
from .errors import (
    ApiError,
    AuthenticationError,
    BadSignature,
    BatchTimedOut,
    BudgetReached,
    ConfigError,
    DownloadError,
    FeatureDisabled,
    InsufficientCredits,
    IntegrityError,
    InvalidRequest,
    KieError,
    LedgerBusy,
    LedgerError,
    LedgerTooNew,
    Maintenance,
    MalformedReply,
    NotFound,
    NotSent,
    RateLimited,
    ReplyLost,
    ResultExpired,
    ServerError,
    StaleTimestamp,
    TaskError,
    TaskFailed,
    TaskTimedOut,
    TooLarge,
    TransportError,
    WebhookError,
    WriteFailed,
    WrongHost,
)
from .jobs import (
    Abandoned,
    Counts,
    Expired,
    Failed,
    Generation,
    Job,
    Outcome,
    Pending,
    Saved,
    SavedFile,
    State,
    Unresolved,
)
from .progress import Left, Progress
from .requests import (
    ChainStep,
    ExistingTask,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from .steps import Step

if TYPE_CHECKING:
    from .batch import Batch
    from .client import Client
    from .gallery import build_gallery
    from .prompt_files import read_prompts
    from .receiver import Receiver
    from .rules.callbacks import verify as verify_callback
    from .tasks import Task

# What needs aiohttp comes when it is first asked for: the command line starts without it.
_LATER = {
    "Batch": "batch",
    "Client": "client",
    "Task": "tasks",
    "Receiver": "receiver",
    "build_gallery": "gallery",
    "read_prompts": "prompt_files",
    "verify_callback": "rules.callbacks:verify",
}

__all__ = [
    "Abandoned",
    "ApiError",
    "AuthenticationError",
    "BadSignature",
    "Batch",
    "BatchTimedOut",
    "BudgetReached",
    "ChainStep",
    "Client",
    "ConfigError",
    "Counts",
    "DownloadError",
    "ExistingTask",
    "Expired",
    "Extend",
    "Failed",
    "FeatureDisabled",
    "Generation",
    "ImageToImage",
    "ImageToVideo",
    "InsufficientCredits",
    "IntegrityError",
    "InvalidRequest",
    "Job",
    "KieError",
    "LedgerBusy",
    "LedgerError",
    "LedgerTooNew",
    "Left",
    "Maintenance",
    "MalformedReply",
    "NotFound",
    "NotSent",
    "OmniReference",
    "Outcome",
    "Pending",
    "Progress",
    "RateLimited",
    "Receiver",
    "ReplyLost",
    "Request",
    "ResultExpired",
    "Saved",
    "SavedFile",
    "ServerError",
    "StaleTimestamp",
    "State",
    "Step",
    "StyleReference",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskTimedOut",
    "TextToImage",
    "TooLarge",
    "TransportError",
    "Unresolved",
    "Upscale",
    "Vary",
    "WebhookError",
    "WriteFailed",
    "WrongHost",
    "__version__",
    "build_gallery",
    "events",
    "read_prompts",
    "verify_callback",
]


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one that comes later

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            module, _, attribute = _LATER[name].partition(":")
            return getattr(import_module(f".{module}", __name__), attribute or name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
