"""A local server with the parts of the hub that downloads need: commits, branches, redirects,
ranges, errors."""

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
    """The state of the server; tests change it while it runs.

    Attributes:
        commits: (repository, commit) -> file -> content. branches: (repository, branch) -> commit.
        refusals: repository -> (status, X-Error-Code).
        truncated_answers: number of answers of which only the first half of the body is sent.
        on_body: called before a body is sent.
        requests: method and path of all requests.
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.truncated_answers = 0
        self.on_body: Callable[[], None] = lambda: None
        self.requests: list[str] = []
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
            hub.requests.append(f"{self.command} {self.path}")
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
            # for the client another host, like the real storage
            storage = hub.address.replace("127.0.0.1", "localhost")
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
            headers = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            hub.on_body()
            if hub.truncated_answers:
                hub.truncated_answers -= 1
                headers["Content_Length"] = len(body)
                self.close_connection = True
                body = body[: len(body) // 2]
            self.answer(206 if start else 200, body, **headers)

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


#: Runs in a new interpreter, because huggingface_hub reads its variables at import. The library
#: waits up to half a minute between attempts, which tests skip.
_LOCATE = """
import json, os, sys, time
from pathlib import Path
from rs_embed.planning.model_info import Weights
from rs_embed.errors import RSEmbedError
from rs_embed.weights.checkpoints import Digests, locate_weights
requested, records, patient = json.loads(sys.argv[1])
if not patient:
    time.sleep = lambda seconds: None
for published in requested:
    try:
        found = locate_weights(Weights(**published), None, 0, digests=Digests(), records=Path(records), download="A_JOB" not in os.environ)
        print(json.dumps({"path": str(found.path), "metadata": found.metadata}))
    except RSEmbedError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def start_process(hub: Hub, home: Path, *published: dict, patient: bool = False, **variables: str) -> subprocess.Popen:
    """Start a process that locates published files, with cache and records below ``home``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(CHECKOUT)} | variables
    command = [sys.executable, "-c", _LOCATE, json.dumps([published, str(home / "records"), patient])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def locate_in_process(hub: Hub, home: Path, *published: dict, **how) -> list[dict]:
    """Locate published files in a process; one result per file."""
    return read_results(start_process(hub, home, *published, **how))


def read_results(process: subprocess.Popen) -> list[dict]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert TOKEN not in out + err
    return [json.loads(line) for line in out.splitlines()]
