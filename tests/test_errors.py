"""The tree of errors: as drawn, told apart by type, and whole after pickling."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kie_mj_async import errors
from kie_mj_async.errors import KieError

_LINE = re.compile(r"^ {4}(?P<stem>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<other>\w+)\))?")


def _drawn() -> dict[str, tuple[str | None, str | None]]:
    """Each drawn name with its parent and the builtin in brackets."""
    drawing = (errors.__doc__ or "").split("::\n", 1)[1].split("\nErrors survive", 1)[0]
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in drawing.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        depth = len(match["stem"]) // 3
        del path[depth:]
        found[match["name"]] = (path[-1] if path else None, match["other"])
        path.append(match["name"])
    return found


def _tree(root: type[KieError]) -> Iterator[type[KieError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


CLASSES = list(_tree(KieError))


def test_the_tree_is_the_drawn_one() -> None:
    """The docstring's drawing and the classes are the same tree, builtin bases included."""
    real: dict[str, tuple[str | None, str | None]] = {}
    for one in CLASSES:
        ours = [base.__name__ for base in one.__bases__ if issubclass(base, KieError)]
        foreign = [
            base.__name__
            for base in one.__bases__
            if not issubclass(base, KieError) and base is not Exception
        ]
        assert len(ours) <= 1
        assert len(foreign) <= 1
        real[one.__name__] = (ours[0] if ours else None, foreign[0] if foreign else None)
    assert real == _drawn()
    assert len(real) >= 29


def test_every_exception_of_the_module_belongs_to_the_tree() -> None:
    """No exception class of the module stands outside the tree."""
    found = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, BaseException)
    }
    assert found == set(CLASSES)


# What each class takes besides its message, by the root of its branch.
_EXTRA: dict[type[KieError], dict[str, Any]] = {
    errors.InvalidRequest: {"field": "speed", "value": ["warp"], "code": 422},
    errors.ApiError: {"code": 429, "status": 200, "retry_after": 1.5},
    errors.TaskFailed: {"error_code": "501"},
    errors.DownloadError: {"url": "https://cdn.example/a.png"},
    errors.LedgerBusy: {"pid": 4711, "path": "/x/ledger.sqlite3"},
    errors.LedgerError: {"path": "/x/ledger.sqlite3"},
}


def _facts(kind: type[KieError]) -> dict[str, Any]:
    facts = next((dict(v) for k, v in _EXTRA.items() if issubclass(kind, k)), {})
    return facts | {"task_id": "abc", "billed": "unknown"}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("how", ["pickle", "copy"])
def test_an_error_survives_copying(kind: type[KieError], how: str) -> None:
    """Type, message and every attribute are there after pickling and after copying."""
    facts = _facts(kind)
    error = kind("went wrong: ä", **facts)
    again = pickle.loads(pickle.dumps(error)) if how == "pickle" else copy.copy(error)
    assert type(again) is kind
    assert str(again) == "went wrong: ä"
    assert again.args == ("went wrong: ä",)
    assert vars(again) == vars(error)
    for name, value in facts.items():
        assert getattr(again, name) == value


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_needs_no_facts(kind: type[KieError]) -> None:
    """Every class can be raised bare; what is not known is None."""
    error = kind()
    assert error.task_id is None
    for name in _facts(kind).keys() - {"billed"}:
        assert getattr(error, name) is None


@pytest.mark.parametrize("kind", CLASSES)
def test_billed_unless_told_otherwise(kind: type[KieError]) -> None:
    """Only an error of a download, whose task succeeded, takes the task as billed."""
    assert kind("x").billed == ("yes" if issubclass(kind, errors.DownloadError) else "no")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(errors.InvalidRequest, ValueError), (errors.TaskTimedOut, TimeoutError)],
)
def test_builtin_bases(kind: type[KieError], builtin: type[Exception]) -> None:
    """Code that knows only the builtin classes catches these too, and they keep their task's id."""
    with pytest.raises(builtin, match=r"^no luck$") as caught:
        raise kind("no luck", task_id="abc")
    assert isinstance(caught.value, KieError)
    assert caught.value.task_id == "abc"


def test_api_errors_keep_the_services_words() -> None:
    """An ApiError's message is also at hand as an attribute."""
    assert errors.RateLimited("slow down", code=429).message == "slow down"
