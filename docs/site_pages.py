"""Hook of mkdocs: pages from files outside docs/, and links that hold in the repository and on the site.

Files link to each other as they lie in the repository. On the site README.md is the home page; links to
pages are rewritten, and those to files that the site does not have become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {  # a file of the repository and its page
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "studies/LOG.md": "log.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"(!\[[^]]*\]\()([^)#\s:]+)()\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Rewrite relative links and pictures from places in the repository to places on the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def on_site(target: str) -> str | None:
        path = posixpath.normpath(posixpath.join(folder, target))
        uri = PAGES.get(path, path.removeprefix("docs/"))
        return uri if files.get_file_from_path(uri) else None

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        uri = on_site(target)
        if uri is None and (ROOT / folder / target).exists():
            return text
        return f"[{text}]({uri or target}{anchor or ''})"

    def image(match: re.Match[str]) -> str:
        return f"{match[1]}{on_site(match[2]) or match[2]})"

    return IMAGE.sub(image, LINK.sub(link, markdown))
