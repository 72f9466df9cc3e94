"""A hub on this machine: its cache as the library lays it out, and a server that answers what the library asks."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from huggingface_hub import _tree_cache, constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use(monkeypatch, home, offline=True, endpoint=""):
    """The library's folders and address, which it reads from the environment only when it is imported."""
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    if endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )


def cache(home, repo, files, revision="main", commit=COMMIT, listed=()):
    """A repository in the cache: `models--OWNER--NAME` or, of "datasets/OWNER/NAME", `datasets--OWNER--NAME`.

    With `listed` names the library knows what a whole copy has.
    """
    kind = "" if repo.startswith("datasets/") else "models/"
    folder = home / "hub" / (kind + repo).replace("/", "--")
    reference = folder / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(content)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    if listed:
        entries = {name: _tree_cache.TreeCacheEntry(size=1, blob_id="0" * 40) for name in listed}
        _tree_cache.write_tree_cache(str(folder), commit, entries)
    return folder / "snapshots" / commit


@contextmanager
def serving(repositories):
    """The address of a hub with these repositories, each a dict of files, and the list of the files that were taken."""
    taken = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path).removeprefix("/")
            if path.startswith("api/"):
                return self._api(path.removeprefix("api/").removeprefix("models/"))
            repo, _, rest = path.partition("/resolve/")
            content = repositories.get(repo, {}).get(rest.removeprefix(f"{COMMIT}/"))
            if content is None:
                return self._answer(
                    404, b"", {"X-Error-Code": "EntryNotFound" if repo in repositories else "RepoNotFound"}
                )
            if self.command == "GET":
                taken.append(rest.removeprefix(f"{COMMIT}/"))
            etag = hashlib.sha256(content).hexdigest()
            self._answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

        def _api(self, path):
            repo, _, what = path.partition("/tree/") if "/tree/" in path else path.partition("/revision/")
            files = repositories.get(repo)
            if files is None:
                return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            if what not in ("main", COMMIT, "refs/convert/parquet"):
                return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            rows = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            names = [{"rfilename": name} for name in files]
            told = (
                rows if "/tree/" in path else {"id": repo.removeprefix("datasets/"), "sha": COMMIT, "siblings": names}
            )
            self._answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def _answer(self, code, content, headers):
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        server.server_close()
