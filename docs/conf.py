"""How Sphinx makes the site of these pages: ``make docs``, and ``make docs-serve`` to read it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import jieba
from sphinx.search.zh import SearchChinese

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from tritonhttp import __version__  # noqa: E402  from the path above

project = "tritonhttp"
author = copyright = "The tritonhttp authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "cli_help",
    "error_messages",
    "nearby_inventories",
]
exclude_patterns = ["_build", "_ext", "requirements.txt"]
templates_path = ["_templates"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# -- Markdown
myst_enable_extensions = ["attrs_block", "colon_fence", "tasklist"]
myst_heading_anchors = 4

# -- The API's pages
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["pyspark", "ray"]
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = True

# The two clients and their models have the same names, so a name alone may mean either.
suppress_warnings = ["ref.python"]

# -- Languages: English, and Chinese from the catalogues in locales/
language = "en"
locale_dirs = ["locales"]
gettext_compact = False
gettext_location = False
gettext_additional_targets = []

jieba.setLogLevel(logging.WARNING)  # it splits Chinese text for the search, and says so on stderr

# -- The look
html_theme = "furo"
html_title = "tritonhttp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/language.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

# -- Links: `make docs-check` looks at those within the site only
linkcheck_ignore = [r"https?://"]


class Chinese(SearchChinese):
    """The search in Chinese. Sphinx 9 names its stemmer by the language, but adds the one of English."""

    language_name = "English"


def setup(app: Any) -> None:
    """Replace Sphinx' own."""
    app.add_search_language(Chinese)
