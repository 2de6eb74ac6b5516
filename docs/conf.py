"""Sphinx configuration for `make docs`."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

import quicdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the extension beside this file

project = "quicdist"
author = "the authors of quicdist"
version = release = version_of("quicdist")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.graphviz", "docstrings"]
graphviz_output_format = "svg"
exclude_patterns = ["_build"]


myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"quicdist {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pictures.css"]

# Objects that another page documents are excluded from the page that lists the rest of `quicdist`.
_PLACED = {
    name
    for page in HERE.glob("reference/*.md")
    for name in re.findall(r"auto\w+:: (\w+)$", page.read_text("utf-8"), re.MULTILINE)
}


def _is_placed(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    if what == "module" and name in _PLACED and getattr(quicdist, name, None) is obj:
        return True
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _is_placed)
