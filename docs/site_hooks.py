"""Put the pages that stand elsewhere in the repository on the site: README, notebooks, results.

A page is written once, with links that work where it stands; here they are turned to the site's.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    "benchmarks/*.md",
    "benchmarks/results/*.md",
    "benchmarks/results/case_study/*.png",
    "benchmarks/results/case_study/report.html",
    "notebooks/*.ipynb",
    "notebooks/gallery/*.png",
    "sample_data/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
LINK = re.compile(r"(?<=\]\()(?P<path>[^):#\s]+)(?=[#)])")


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what stands outside docs/; README is the first page."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for path in (path for pattern in ELSEWHERE for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links from where the page stands to where the site has it."""
    if page.file.src_uri == "index.md":
        return LINK.sub(lambda link: link["path"].removeprefix("docs/"), markdown)
    if page.file.src_dir == config.docs_dir:
        return LINK.sub(lambda link: link["path"].removeprefix("../"), markdown)
    return markdown
