"""What the site makes of the package's docstrings: their roles as links, their blocks as code.

The docstrings are written for people who read source. Here they become what mkdocstrings expects, and
classes of attrs get the signature that attrs gives them.
"""

from __future__ import annotations

import re
import textwrap
from enum import Enum
from importlib import import_module
from typing import Any, Final

import attrs
import griffe

_ROLE: Final = re.compile(r":(?:class|meth|func|data|attr|mod):`(~?)([\w.]+)`")
_PRIVATE_SOURCE: Final = re.compile(r" \(kie-api\.md[^)]*\)|, kie-api\.md(?=\))")
_BLOCK: Final = re.compile(r"(?m)^(?P<lead>[^\n]*?)[ ]?::\n\n(?P<code>(?:[ ]{4,}[^\n]*\n|\n)+)")
_MADE_FOR_USERS: Final = (
    "batch.Batch", "client.Task", "tasks.Task", "subscribers.EventStream", "subscribers.Subscription",
    "cluster.client.QueuedJob", "cluster.listing.FleetBatch", "testing.Simulated",
)  # fmt: skip
"""Classes that nobody makes by hand, so that what they are made of is nobody's business."""

_DRAWING: Final = re.compile(r"[├└│^]|──")


class Docstrings(griffe.Extension):
    """Brings docstrings into the form that the site shows."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Once all is read, so that every name can be found."""
        _walk(pkg)


def _walk(found: griffe.Object) -> None:
    if found.docstring is not None:
        found.docstring.value = readable(found.docstring.value, found)
    if isinstance(found, griffe.Class):
        if found.path.removeprefix("kie_mj_async.") in _MADE_FOR_USERS:
            del found.members["__init__"]
        _sign(found)
    if isinstance(found, griffe.Function):
        _show_defaults(found)
    for member in list(found.members.values()):
        if isinstance(member, griffe.Object):
            _walk(member)


def readable(text: str, owner: griffe.Object) -> str:
    """A docstring in Markdown.

    Args:
        text: The docstring.
        owner: What it belongs to, whose names it uses.
    """
    text = _PRIVATE_SOURCE.sub("", text)
    text = _BLOCK.sub(_fence, text + "\n").rstrip("\n")
    return _ROLE.sub(lambda found: _link(found[2], owner, short=bool(found[1])), text)


def _fence(found: re.Match[str]) -> str:
    code = textwrap.dedent(found["code"]).strip("\n")
    language = "text" if _DRAWING.search(code) else "python"
    lead = f"{found['lead']}:\n\n" if found["lead"] else ""
    return f"{lead}```{language}\n{code}\n```\n\n"


def _link(name: str, owner: griffe.Object, *, short: bool) -> str:
    try:
        path = name if name.startswith("kie_mj_async.") else owner.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


def _show_defaults(found: griffe.Function) -> None:
    """Show the values of defaults that have a name."""
    for one in found.parameters:
        name = str(one.default or "")
        if re.fullmatch(r"[A-Z][A-Z_]+", name):
            value = getattr(import_module(found.module.path), name, None)
            if isinstance(value, int | float | str):
                one.default = repr(value)


def _sign(found: griffe.Class) -> None:
    """Give a class of attrs the parameters that it is made with."""
    if "__init__" in found.members or not found.path.startswith("kie_mj_async."):
        return
    made = getattr(import_module(found.module.path), found.name, None)
    if not (isinstance(made, type) and attrs.has(made)):
        return
    parameters = [
        _parameter(one, found) for one in attrs.fields(made) if one.init and one.name[0] != "_"
    ]
    # As attrs has it: what must be named comes last.
    parameters.sort(key=lambda one: one.kind is griffe.ParameterKind.keyword_only)
    first = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    init = griffe.Function("__init__", parameters=griffe.Parameters(first, *parameters))
    found.set_member("__init__", init)


def _parameter(one: attrs.Attribute[Any], owner: griffe.Class) -> griffe.Parameter:
    kind = (
        griffe.ParameterKind.keyword_only
        if one.kw_only
        else griffe.ParameterKind.positional_or_keyword
    )
    default = None if one.default is attrs.NOTHING else _default(one.default)
    return griffe.Parameter(
        str(one.alias), annotation=_annotation(str(one.type), owner), kind=kind, default=default
    )


def _default(value: Any) -> str:
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return "..."
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def _annotation(text: str, owner: griffe.Class) -> Any:
    node = compile(text, "<annotation>", "eval", flags=1024).body  # type: ignore[attr-defined]
    return griffe.safe_get_annotation(node, parent=owner.module) or text
