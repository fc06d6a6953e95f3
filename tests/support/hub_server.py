"""A hub on the loopback, as far as downloads need one: commits, branches, redirects to storage, ranges, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .exports import CHECKOUT

TOKEN = "hf_thisIsNobodysToken"


class Hub:
    """What the server has and does; tests change it while it runs.

    Attributes:
        commits: (repository, commit) -> file -> content. branches: (repository, branch) -> commit.
        refusals: repository -> (status, X-Error-Code).
        cut: of how many answers only the first half of the body is sent. on_body: called before a body is sent.
        asked: paths of all requests.
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.cut = 0
        self.on_body: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self.address = ""

    def push(self, repository: str, commit: str, files: dict[str, bytes], branch: str = "main") -> None:
        self.commits[repository, commit] = files
        self.branches[repository, branch] = commit


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if self.path.startswith("/storage/"):
                return self.storage(self.path.split("/", 2)[2])
            repository, _, rest = self.path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            if repository in hub.refusals:
                status, code = hub.refusals[repository]
                return self.answer(status, X_Error_Code=code)
            if not any(r == repository for r, _ in hub.commits):
                return self.answer(404, X_Error_Code="RepoNotFound")
            commit = hub.branches.get((repository, revision), revision)
            if (repository, commit) not in hub.commits:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            content = hub.commits[repository, commit].get(name)
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            etag = hashlib.sha256(content).hexdigest()
            storage = hub.address.replace(
                "127.0.0.1", "localhost"
            )  # to the client another host, as the real storage is
            self.answer(
                302,
                Location=f"{storage}/storage/{repository}/{commit}/{name}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=len(content),
                ETag='"of the pointer"',
            )

        do_GET = do_HEAD

        def storage(self, path: str) -> None:
            owner, name, commit, file = path.split("/", 3)
            content = hub.commits[f"{owner}/{name}", commit][file]
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            body = content[start:]
            about = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            hub.on_body()
            if hub.cut:
                hub.cut -= 1
                about["Content_Length"] = len(body)
                self.close_connection = True
                body = body[: len(body) // 2]
            self.answer(206 if start else 200, body, **about)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


#: Runs in a new interpreter, because huggingface_hub reads its variables when it is imported. It waits up to half a minute
#: between attempts, which a test need not.
_LOCATE = """
import json, os, sys, time
from pathlib import Path
from rs_embed.planning.model_info import Weights
from rs_embed.errors import RSEmbedError
from rs_embed.weights.checkpoints import Digests, locate
asked, records, patient = json.loads(sys.argv[1])
if not patient:
    time.sleep = lambda seconds: None
for published in asked:
    try:
        found = locate(Weights(**published), None, 0, digests=Digests(), records=Path(records), download="A_JOB" not in os.environ)
        print(json.dumps({"path": str(found.path), "said": found.said}))
    except RSEmbedError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def start(hub: Hub, home: Path, *published: dict, patient: bool = False, **variables: str) -> subprocess.Popen:
    """A process that locates published files, with the cache and the records below ``home``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(CHECKOUT)} | variables
    command = [sys.executable, "-c", _LOCATE, json.dumps([published, str(home / "records"), patient])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def located(hub: Hub, home: Path, *published: dict, **how) -> list[dict]:
    """What a process found, one result for each file."""
    return results(start(hub, home, *published, **how))


def results(process: subprocess.Popen) -> list[dict]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert TOKEN not in out + err
    return [json.loads(line) for line in out.splitlines()]
