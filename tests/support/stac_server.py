"""A STAC API and a server of byte ranges on the loopback: landing page, collections, searches with
paging, files, tokens; with injected faults, and a record of all requests."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit


@dataclass
class Fault:
    """A fault of some requests.

    Attributes:
        kind: an HTTP status, or ``slow``, ``drop`` (no answer), ``cut`` (half of the body), or
            ``page`` (a page to log in, with status 200).
        path: part of the paths that it concerns. times: how often. after: successful requests of
            that path before it.
        ranged: only for requests of ranges. headers: of the answer.
    """

    kind: str
    path: str = "/files/"
    times: int = 10**9
    after: int = 0
    ranged: bool = False
    headers: dict = field(default_factory=dict)


@dataclass
class RecordedRequest:
    """One request, and the status and size of its answer."""

    method: str
    path: str
    query: str
    range: str | None
    body: dict | None = None
    status: int = 0
    sent: int = 0


class StacServer:
    """State of the server; tests change it while it runs.

    Attributes:
        items: all items. page: largest page.
        signed: files need a token. lifetime: of a token as declared, seconds; good: tokens that
            give access to files.
        methods: of searches. conforms: the landing page says what the API conforms to.
        faults: still to occur. requests: all requests.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.items, self.page = root, [], 10**6
        self.signed, self.lifetime, self.tokens, self.good = False, 3600.0, 0, set()
        self.methods, self.conforms = ("GET", "POST"), True
        self.faults: list[Fault] = []
        self.requests: list[RecordedRequest] = []
        self.address = ""
        # in every URL of a file: ports are reused, and GDAL caches files by URL
        self.key = uuid.uuid4().hex[:8]
        self.lock = threading.Lock()

    def add(
        self, name: str, assets: dict[str, str], box, when="2022-07-01T10:00:00Z", collection="s2", **properties
    ) -> dict:
        """An item; assets are name -> file below the root, or a whole asset."""
        west, south, east, north = (float(v) for v in box)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": name,
            "collection": collection,
            "bbox": [west, south, east, north],
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": when} | properties,
            "links": [],
            "assets": {k: self.asset(a) for k, a in assets.items()},
        }
        self.items.append(item)
        return item

    @property
    def files(self) -> str:
        """URL of the folder."""
        return f"{self.address}/files/{self.key}"

    def asset(self, asset: str | dict) -> dict:
        asset = {"href": asset} if isinstance(asset, str) else asset
        return {"type": "image/tiff; application=geotiff"} | asset | {"href": f"{self.files}/{asset['href']}"}

    def count(self, part: str, method: str = "") -> int:
        """Requests whose path has a part."""
        return sum(part in a.path and a.method.startswith(method) for a in self.requests)

    @property
    def kinds(self) -> dict[str, int]:
        """Requests by the first word of their path."""
        return dict(Counter(a.path.split("/")[1] or "landing" for a in self.requests))

    def sent(self, part: str = "/files/") -> int:
        """Bytes of answers."""
        return sum(a.sent for a in self.requests if part in a.path)

    def next_fault(self, request: RecordedRequest) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.path in request.path and (request.range or not fault.ranged):
                    if fault.after > 0:
                        fault.after -= 1
                        return None
                    if fault.times > 0:
                        fault.times -= 1
                        return fault
        return None


def _handler(stac: StacServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            self.serve(None)

        def do_POST(self) -> None:
            self.serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def serve(self, body: dict | None) -> None:
            parts = urlsplit(self.path)
            self.request_record = RecordedRequest(
                self.command, parts.path, parts.query, self.headers.get("Range"), body
            )
            with stac.lock:
                stac.requests.append(self.request_record)
            self.fault = stac.next_fault(self.request_record)
            kind = self.fault.kind if self.fault else ""
            if kind.isdigit():
                return self.answer(int(kind), b"not now", "text/plain", **self.fault.headers)
            if kind == "page":
                return self.answer(200, b"<!DOCTYPE html><html>Please log in</html>", "text/html")
            if kind == "drop":
                self.close_connection = True
                return self.connection.close()
            if kind == "slow":
                time.sleep(1.2)
            word, _, rest = parts.path[1:].partition("/")
            {"": self.landing, "collections": self.collections, "search": self.search, "token": self.token}.get(
                word, lambda _: self.file(rest, parts.query)
            )(rest)

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), "application/json")

        def answer(self, status: int, body: bytes, kind: str, **headers) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": len(body), "Content-Type": kind} | headers).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                if self.fault and self.fault.kind == "cut":
                    body = body[: len(body) // 2]
                    self.close_connection = True
                try:
                    self.wfile.write(body)
                    self.wfile.flush()
                except OSError:  # the client has closed the connection
                    self.close_connection = True
                self.request_record.sent = len(body)
            self.request_record.status = status

        def landing(self, _: str) -> None:
            core = "https://api.stacspec.org/v1.0.0/"
            links = [
                {"rel": "self", "href": stac.address},
                {"rel": "root", "href": stac.address},
                {"rel": "data", "href": f"{stac.address}/collections"},
            ]
            search = {"rel": "search", "href": f"{stac.address}/search", "type": "application/geo+json"}
            links += [search | {"method": m} for m in stac.methods] if stac.conforms else []
            catalogue = {
                "type": "Catalog",
                "id": "loopback",
                "stac_version": "1.0.0",
                "description": "loopback",
                "links": links,
            }
            classes = [core + c for c in ("core", "item-search", "collections")]
            self.json(catalogue | ({"conformsTo": classes} if stac.conforms else {}))

        def collections(self, _: str) -> None:
            ids = dict.fromkeys(i["collection"] for i in stac.items)
            self.json({"collections": [{"type": "Collection", "id": c} for c in ids], "links": []})

        def search(self, _: str) -> None:
            if self.command not in stac.methods:
                return self.answer(405, b"no", "text/plain")
            query = self.request_record.body or {k: v[0] for k, v in parse_qs(self.request_record.query).items()}
            if isinstance(query.get("bbox"), str):
                query["bbox"] = [float(v) for v in query["bbox"].split(",")]
            found = [i for i in stac.items if _matches(i, query)]
            start, size = int(query.get("token", 0)), min(int(query.get("limit", 10)), stac.page)
            links = []
            if start + size < len(found):
                body = query | {"token": str(start + size)}
                links = [{"rel": "next", "href": f"{stac.address}/search", "method": "POST", "body": body}]
                if self.command == "GET":
                    flat = body | {"bbox": ",".join(map(str, body["bbox"]))}
                    links = [{"rel": "next", "href": f"{stac.address}/search?{urlencode(flat)}"}]
            self.json({"type": "FeatureCollection", "features": found[start : start + size], "links": links})

        def token(self, collection: str) -> None:
            with stac.lock:
                stac.tokens += 1
                token = f"sig=SECRET{stac.tokens}&for={collection}"
                stac.good.add(token)
            end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=stac.lifetime)
            self.json({"token": token, "msft:expiry": end.strftime("%Y-%m-%dT%H:%M:%SZ")})

        def file(self, name: str, query: str) -> None:
            if stac.signed and query not in stac.good:
                return self.answer(403, b"no", "text/plain")
            named = parse_qs(query).get("file", [unquote(name.partition("/")[2])])[0]
            path = stac.root / named
            if not path.is_file():
                return self.answer(404, b"no", "text/plain")
            data = path.read_bytes()
            if not self.request_record.range:
                return self.answer(200, data, "image/tiff", Accept_Ranges="bytes")
            first, _, last = self.request_record.range.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data)), len(data) - 1)
            span = f"bytes {first}-{end}/{len(data)}"
            self.answer(206, data[int(first) : end + 1], "image/tiff", Content_Range=span, Accept_Ranges="bytes")

    return Handler


def _matches(item: dict, query: dict) -> bool:
    if query.get("collections") and item["collection"] not in query["collections"]:
        return False
    if box := query.get("bbox"):
        middle = len(item["bbox"]) // 2
        west, south, east, north = (*item["bbox"][:2], *item["bbox"][middle : middle + 2])
        spans = [(west, east)] if west <= east else [(west, 180), (-180, east)]
        if all(w > box[2] or e < box[0] for w, e in spans) or south > box[3] or north < box[1]:
            return False
    if span := query.get("datetime"):
        start, end = span.split("/")
        return start <= item["properties"]["datetime"] <= end
    return True


@contextmanager
def serve_stac(root: Path) -> Iterator[StacServer]:
    """A server of the files below a folder, as long as the block lasts."""
    stac = StacServer(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stac))
    server.daemon_threads = True
    stac.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stac
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
