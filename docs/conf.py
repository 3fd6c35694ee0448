"""How the manual is built: `make docs`, offline, warnings as errors."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from rsl_cli.help import reference

project, author = "rsl", "The rsl developers"
version = release = metadata.version("rsl-cli")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"rsl {release}"
html_static_path: list[str] = []
html_theme_options = {"light_css_variables": {"code-font-size": "0.78rem"}}  # so that the longest line fits
myst_heading_anchors = 3
default_role = "py:obj"
nitpicky = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False

generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "configuration.md").write_text(reference(), encoding="utf-8")


def escape_shapes(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Let shapes such as (N, *input_shape) stand in docstrings as they are: a star there begins no emphasis."""
    lines[:] = [re.sub(r"([(,] ?)\*(?=\w+[,)])", r"\1\\*", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_shapes)
