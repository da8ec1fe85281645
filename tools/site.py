"""A hook of mkdocs: pictures that the pages of docs/ show from outside of it come along; other links lead to the
repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_PICTURE = re.compile(r"(!\[[^\]]*\]\()\.\./([^)\s]+)\)")
_OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """The site's files, with those pictures."""
    docs = Path(config.docs_dir)
    pages = (page.read_text(encoding="utf-8") for page in docs.glob("*.md"))
    for name in sorted({found[2] for page in pages for found in _PICTURE.finditer(page)}):
        files.append(File.generated(config, name, abs_src_path=str(docs.parent / name)))
    return files


def on_page_markdown(markdown: str, *, config: Any, **_: object) -> str:
    """A page whose pictures are the site's, and whose links to files outside of docs/ lead to the main branch."""
    markdown = _PICTURE.sub(r"\1\2)", markdown)
    return _OUTSIDE.sub(rf"]({config.repo_url.rstrip('/')}/blob/main/\1)", markdown)
