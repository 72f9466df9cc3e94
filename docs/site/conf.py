"""How Sphinx makes the site of the documentation: `make site`. Its sources are the Markdown that GitHub shows, where it lies.

The site has the repository's folders, so a relative link leads to the same place in both.
"""

import logging
import os
import sys
from pathlib import Path

for name in ("MLFLOW_TRACKING_URI", "REPRO_CACHE"):  # the notebook's study belongs to no one's store
    os.environ.pop(name, None)
logging.getLogger("traitlets").setLevel(logging.WARNING)  # that a notebook is run
sys.path.insert(0, str(Path(__file__).parent))
import docstrings  # noqa: E402
import files  # noqa: E402

project = "N+"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.linkcode", "myst_nb", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.ipynb", "docs/api/*.md"]
exclude_patterns = [
    ".*",
    "*.egg-info",
    "ablations",
    "benchmarks",
    "cache",
    "mlartifacts",
    "repro",
    "reports",
    "site",
    "tests",
]
default_role = "py:obj"
smartquotes = False
highlight_language = "none"  # of a block that names none: commands, and what they print

myst_heading_anchors = 4  # as GitHub's
myst_url_schemes = {"http": None, "https": None, "repo": {"url": "{{path}}#{{fragment}}"}}  # files.link writes repo:
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # libraries that warn of a notebook without widgets

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
linkcode_resolve = files.linkcode
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "N+"
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def setup(app) -> None:
    docstrings.setup(app)
    files.setup(app)
