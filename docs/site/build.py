"""Makes the site of the documentation in `site/`: `make site`. A warning or a link that leads nowhere is an error."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import links
from sphinx.cmd.build import main as sphinx

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def build(site: Path) -> int:
    """The exit code; where that is not 0, a site that was there before is left as it was."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder).resolve() / "site"
        _without_settings(Path(folder) / "ipython")
        always = ["--quiet", "--fail-on-warning", "--doctree-dir", f"{folder}/doctrees", "--conf-dir", str(HERE)]
        if code := sphinx([*always, str(ROOT), str(made)]):
            return code
        found = links.broken(made)
        for each in found:
            print(f"error: link that leads nowhere: {each}", file=sys.stderr)
        if not found:
            shutil.rmtree(site, ignore_errors=True)
            shutil.move(made, site)
        return 1 if found else 0


def _without_settings(folder: Path) -> None:
    """The notebook's kernel reads no settings of whoever builds, and says nothing of its own sockets."""
    (folder / "profile_default").mkdir(parents=True)
    (folder / "profile_default" / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'ERROR'\n")
    os.environ["IPYTHONDIR"] = str(folder)


if __name__ == "__main__":
    if code := build(ROOT / "site"):
        sys.exit(code)
    print("site: site/index.html")
