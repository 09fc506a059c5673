"""What mkdocs calls while it builds the site: pages take in what stands elsewhere.

So nothing is written twice, and nothing goes stale.

In a page, on a line of its own:

- ``<!-- include: FILE -->``: a Markdown file of the repository, whole.
- ``<!-- include: FILE | HEADING -->``: what stands below that heading.
- ``<!-- source: FILE -->``: a file as a block of code.
- ``<!-- examples -->``: the programs of ``examples/`` that no other page shows.
- ``<!-- commands -->``: the command line, from its own help.
- ``<!-- settings -->``: every setting, from the table that resolves them.
- ``<!-- faults -->``: what can go wrong at the simulator on purpose.
- ``<!-- tree -->``: the errors, as their module draws them; ``<!-- errors -->``: each from its class.
- ``<!-- architecture -->``: the layers, drawn from the import rules.

Other comments are for the tests (``tests/docs_support.py``), and are left out.

A picture (``![...](x.svg)``) is put into the page, so that it has the page's colours. Links that lead
out of ``docs/`` in the repository lead to the page that shows the same.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
sys.path.insert(0, str(HERE))

from architecture import architecture_in_svg  # noqa: E402
from commands import commands_in_markdown  # noqa: E402
from settings_table import settings_in_markdown  # noqa: E402

import kie_mj_async as mj  # noqa: E402
from kie_mj_async import errors  # noqa: E402
from kie_mj_async.simulator.faults import KINDS  # noqa: E402

sys.path.remove(str(HERE))

_DIRECTIVE: Final = re.compile(r"(?m)^<!-- ([a-z]+)(?:: (.*?))? -->$")
_PICTURE: Final = re.compile(r"(?m)^!\[([^\]]*)\]\(([^)]+\.svg)\)$")
_LINK: Final = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
_FENCED: Final = re.compile(r"(?ms)^( *)(```+).*?^\1\2[ ]*$")

PAGES: Final[dict[str, str]] = {
    "README.md": "index.md",
    "README.md#what-happens-to-a-job": "explanation/states.md",
    "README.md#callbacks": "howto/callbacks.md",
    "CHANGELOG.md": "project/changes.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "examples/README.md": "howto/examples.md",
    "examples/callbacks_aiohttp.py": "howto/callbacks.md#in-an-aiohttp-application",
    "examples/callbacks_fastapi.py": "howto/callbacks.md#behind-fastapi-or-any-other-framework",
}
"""What stands in the repository outside of docs/, and the page that shows it."""

EXAMPLES: Final = sorted(
    path for path in (ROOT / "examples").glob("*.py") if f"examples/{path.name}" not in PAGES
)
PAGES.update({f"examples/{one.name}": f"howto/examples.md#{one.stem}" for one in EXAMPLES})


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text, with all that it takes in."""
    place = page.file.src_uri
    text = relinked(markdown, f"docs/{place}", place)
    text = _DIRECTIVE.sub(lambda found: _taken_in(found[1], found[2] or "", place), text)
    return _PICTURE.sub(lambda found: _drawn(found[2], found[1], place), text)


def _taken_in(what: str, argument: str, place: str) -> str:
    match what:
        case "include":
            name, _, heading = (part.strip() for part in argument.partition("|"))
            text = (ROOT / name).read_text(encoding="utf-8")
            return relinked(section(text, heading) if heading else text, name, place)
        case "source":
            return source(ROOT / argument)
        case "examples":
            return "\n\n".join(map(_example, EXAMPLES))
        case "commands":
            return commands_in_markdown()
        case "settings":
            return settings_in_markdown()
        case "faults":
            return _faults()
        case "tree":
            return f"```text\n{_tree()}\n```"
        case "errors":
            return "\n\n".join(
                f"::: kie_mj_async.{name}\n{_OF_AN_ERROR}" for name in _public_errors()
            )
        case "architecture":
            return _figure(architecture_in_svg(ROOT / "pyproject.toml"), "The layers")
        case "block":
            return ""
        case _:
            raise LookupError(f"{place}: nobody knows what <!-- {what} --> is")


def source(path: Path) -> str:
    """A file as a block of code."""
    language = {".py": "python", ".sql": "sql"}.get(path.suffix, "text")
    return f"```{language}\n{path.read_text(encoding='utf-8').rstrip()}\n```"


def _example(path: Path) -> str:
    module = ast.parse(path.read_text(encoding="utf-8"))
    about = (ast.get_docstring(module) or "").partition("\n\n")[0]
    code = source(path)
    return f"## {path.name} {{ #{path.stem} }}\n\n{about}\n\n{code}"


def _faults() -> str:
    rows = [
        f"| `{place}.{kind}` | {meaning} |"
        for place, kinds in KINDS.items()
        for kind, meaning in kinds.items()
    ]
    table = "\n".join(["| fault | what happens |", "| --- | --- |", *rows])
    return f'??? note "All faults"\n\n{textwrap.indent(table, "    ")}'


_OF_AN_ERROR: Final = """\
    options:
      heading_level: 3
      members: false
      separate_signature: false
      show_signature: false
"""


def _public_errors() -> list[str]:
    named = ((name, getattr(mj, name)) for name in mj.__all__)
    return [name for name, one in named if isinstance(one, type) and issubclass(one, mj.KieError)]


def _tree() -> str:
    drawn = re.search(r"::\n\n((?:    .*\n)+)", errors.__doc__ or "")
    if drawn is None:
        raise LookupError("errors.py draws no tree")
    return textwrap.dedent(drawn[1]).replace("``", "").rstrip()


def section(text: str, heading: str) -> str:
    """What stands below a heading, down to the next one of its level or above.

    Raises:
        LookupError: There is no such heading, or more than one.
    """
    lines = text.splitlines()
    heading_of = re.compile(rf"(#+) {re.escape(heading)}")
    places = [place for place, line in enumerate(lines) if heading_of.fullmatch(line)]
    if len(places) != 1:
        raise LookupError(f"there is no heading {heading!r}, or more than one")
    start = places[0] + 1
    level = lines[places[0]].index(" ")
    fenced = False
    for end in range(start, len(lines)):
        fenced ^= lines[end].startswith("```")
        if not fenced and re.match(rf"#{{1,{level}}} ", lines[end]):
            return "\n".join(lines[start:end])
    return "\n".join(lines[start:])


def relinked(text: str, source: str, place: str) -> str:
    """A text of the repository, with its links as they are from a page.

    Args:
        text: Markdown.
        source: The file that it stands in, from the repository's root.
        place: The page that it is shown on, from docs/.
    """

    def replace(found: re.Match[str]) -> str:
        path, _, anchor = found[2].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target.startswith("docs/"):
            page = target.removeprefix("docs/") + (f"#{anchor}" if anchor else "")
        else:
            page = PAGES.get(f"{target}#{anchor}") or PAGES.get(target) or ""
            if not page:
                return found[1]  # a file that the site does not have
        page, _, anchor = page.partition("#")
        link = posixpath.relpath(page, posixpath.dirname(place) or ".")
        return f"[{found[1]}]({link}{'#' if anchor else ''}{anchor})"

    return _outside_of_code(text, lambda part: _LINK.sub(replace, part))


def _outside_of_code(text: str, change: Any) -> str:
    changed, end = [], 0
    for block in _FENCED.finditer(text):
        changed += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*changed, change(text[end:])])


def _drawn(name: str, meaning: str, place: str) -> str:
    path = ROOT / "docs" / posixpath.normpath(posixpath.join(posixpath.dirname(place), name))
    return _figure(path.read_text(encoding="utf-8"), meaning)


def _figure(drawing: str, meaning: str) -> str:
    lines = "\n".join(line for line in drawing.splitlines() if line.strip())
    return f'<figure class="drawn" role="img" aria-label="{meaning}">\n{lines}\n</figure>'
