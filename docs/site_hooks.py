"""What the site has beside the pages of ``docs/``: the reference pages of the bundle, SKILL.md, and
the notebooks.

They stay where the bundle has them; a link between the two folders is turned into the one that
holds in the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside of ``docs/``."""
    for path in sorted((ROOT / "references").glob("*.md")):
        files.append(File.generated(config, f"references/{path.name}", abs_src_path=str(path)))
    files.append(File.generated(config, "SKILL.md", abs_src_path=str(ROOT / "SKILL.md")))

    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=_notebook(path)))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    return files


def _notebook(path: Path) -> str:
    """A notebook as a page: its text, its code, and itself to take away."""
    cells = nbformat.read(path, as_version=4).cells
    parts = [
        f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source
        for cell in cells
    ]
    parts.insert(1, f"Take it away: [{path.name}]({path.name}). It needs no data of yours.")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they are in the site; what is no page of it is shown as text."""
    inside = page.file.src_uri.startswith("references/")

    def link(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        if not inside and target.startswith("../references/"):
            return f"[{text}]({target.removeprefix('../')})"
        if target.startswith(("http", "#", "references/")) or not _is_file(target):
            return found[0]
        return found[0] if _page(page.file.src_uri, target, files) else text

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)


def _is_file(target: str) -> bool:
    return bool(re.match(r"[\w./-]+(#.*)?$", target))


def _page(source: str, target: str, files: Any) -> bool:
    """Whether a link leads to a page or file of the site."""
    place = Path(source).parent / target.partition("#")[0]
    parts: list[str] = []
    for part in place.parts:
        parts = parts[:-1] if part == ".." and parts else [*parts, part]
    return files.get_file_from_path("/".join(parts)) is not None
