"""A loopback Earth Engine: the service's own discovery document and algorithms (from the client's
wheel), pixels and values evaluated from local GeoTIFFs, injected faults, and a record of the
requests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from rs_embed.request.geometry import Grid

from .ee_graph import Graph
from .ee_images import Image, RequestRefused, Scene

PROJECT = "test-project"


@dataclass(frozen=True)
class Fault:
    """A fault of one request: an error answer, half a body (``cut``), no answer (``drop``), or a
    late one (``slow`` seconds)."""

    status: int = 200
    message: str = ""
    retry_after: str | None = None
    cut: bool = False
    drop: bool = False
    slow: float = 0.0


TOO_MANY = Fault(
    429, "Too Many Requests: Request was rejected because the request rate or concurrency limit was exceeded."
)
UNAVAILABLE = Fault(503, "The service is currently unavailable.")


@dataclass
class EarthEngine:
    """The service.

    Attributes:
        collections: images by collection id.
        faults, value_faults: for the next requests for pixels, and for values, one each; None: no
            fault.
        start_faults: how many of the next requests of a connecting client are refused.
        chances: probabilities of a fault in any later pixel request, with a seeded generator.
        latency: shortest time of an answer with pixels, seconds.
        limit: largest answer, bytes without compression.
        requests: bodies of requests by kind, in order. answered: digests of requests with a
            complete answer.
        max_in_flight: largest number of requests in flight at a time. in_flight: their number now.
    """

    collections: dict[str, list[Scene]] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    value_faults: list[Fault | None] = field(default_factory=list)
    chances: dict[Fault, float] = field(default_factory=dict)
    latency: float = 0.0
    limit: int = 48 << 20
    requests: dict[str, list] = field(default_factory=lambda: {"pixels": [], "value": [], "start": []})
    answered: Counter = field(default_factory=Counter)
    headers: list[dict] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    start_faults: int = 0
    start_times: list[float] = field(default_factory=list)
    end_times: list[float] = field(default_factory=list)
    max_in_flight: int = 0
    in_flight: int = 0

    def __post_init__(self) -> None:
        import ee

        tests = Path(ee.__file__).parent / "tests"
        self.discovery = (tests / "cloud_api_discovery_document.json").read_bytes()
        self.algorithms = (tests / "algorithms.json").read_bytes()
        self.lock, self.rng, self.url = threading.Lock(), random.Random(0), ""

    @property
    def repeats(self) -> int:
        """Number of pixel requests that were repeated although they had succeeded."""
        return sum(n - 1 for n in self.answered.values())

    def counts(self) -> dict[str, int]:
        """Requests by kind."""
        return {k: len(v) for k, v in self.requests.items()}

    def reset_counts(self) -> None:
        """Clear the record of requests."""
        for record in (
            *self.requests.values(),
            self.answered,
            self.headers,
            self.kinds,
            self.start_times,
            self.end_times,
        ):
            record.clear()
        self.max_in_flight = 0

    def start_request(self, kind: str, body: dict) -> None:
        """Record a request."""
        with self.lock:
            self.requests[kind].append(body)
            self.start_times.append(time.monotonic())
            self.kinds.append(kind)
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end_request(self) -> None:
        """Record the end before the answer is sent: the client may send the next request once it
        has read the answer."""
        with self.lock:
            self.in_flight -= 1
            self.end_times.append(time.monotonic())

    def next_fault(self, kind: str) -> Fault | None:
        """The fault of the next request, or None."""
        with self.lock:
            if kind == "value":
                return self.value_faults.pop(0) if self.value_faults else None
            if self.faults:
                return self.faults.pop(0)
            draw = self.rng.random()
            for fault, chance in self.chances.items():
                if (draw := draw - chance) < 0:
                    return fault
        return None

    def value(self, body: dict):
        """The answer of ``value:compute``."""
        expression = body["expression"]
        graph = Graph(self.collections, expression["values"])
        return graph.node({"valueReference": expression["result"]})

    def pixels(self, body: dict) -> bytes:
        """The answer of ``image:computePixels``: a structured array in npy."""
        image = self.value(body)
        where, size = body["grid"]["affineTransform"], body["grid"]["dimensions"]
        affine = tuple(
            float(where.get(k, 0)) for k in ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
        )
        grid = Grid(body["grid"]["crsCode"], affine, size["width"], size["height"])
        assert isinstance(image, Image) and body["fileFormat"] == "NPY"
        total = grid.width * grid.height * sum(k.itemsize for k in image.dtypes)
        if total > self.limit:
            raise RequestRefused(
                f"Total request size ({total} bytes) must be less than or equal to {self.limit} bytes."
            )
        if max(grid.width, grid.height) > 32768 or len(image.names) > 1024:
            raise RequestRefused("Pixel grid dimensions must be less than or equal to 32768, with at most 1024 bands.")
        table = np.zeros((grid.height, grid.width), list(zip(image.names, image.dtypes)))
        for name, (values, mask) in zip(image.names, image.pixels(grid), strict=True):
            table[name] = np.where(mask, values, 0)
        file = io.BytesIO()
        np.save(file, table)
        return file.getvalue()


def _handler(service: EarthEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            service.headers.append(dict(self.headers))
            kind = "discovery" if "discovery" in self.path else "algorithms"
            service.requests["start"].append(kind)
            if service.start_faults:
                service.start_faults -= 1
                self.answer(503, _error(503, UNAVAILABLE.message))
                return
            self.answer(200, getattr(service, kind))

        def do_POST(self) -> None:
            service.headers.append(dict(self.headers))
            text = self.rfile.read(int(self.headers["Content-Length"]))
            body, kind = json.loads(text), "pixels" if "computePixels" in self.path else "value"
            service.start_request(kind, body)
            status, data, more, fault = self.compute_answer(kind, body)
            service.end_request()
            if fault and fault.drop:
                # no orderly end: the client sees a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.answer(status, data, more, cut=bool(fault and fault.cut))
            if status == 200 and kind == "pixels" and not (fault and fault.cut):
                with service.lock:
                    service.answered[hashlib.sha256(text).hexdigest()] += 1

        def compute_answer(self, kind: str, body: dict) -> tuple[int, bytes, dict, Fault | None]:
            """(status, content, headers, fault) of an answer, after the service's latency."""
            started, fault = time.monotonic(), service.next_fault(kind)
            if fault and fault.slow:
                time.sleep(fault.slow)
            if fault and (fault.status != 200 or fault.drop):
                more = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return fault.status, _error(fault.status, fault.message), more, fault
            try:
                made = (
                    service.pixels(body) if kind == "pixels" else json.dumps({"result": service.value(body)}).encode()
                )
            except RequestRefused as error:
                return 400, _error(400, str(error)), {}, fault
            time.sleep(max(0.0, service.latency - (time.monotonic() - started)))
            return 200, made, {}, fault

        def answer(self, status: int, data: bytes, more: dict | None = None, *, cut: bool = False) -> None:
            self.send_response(status)
            for key, value in (
                {"Content-Length": str(len(data)), "Content-Type": "application/json"} | (more or {})
            ).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        def log_message(self, *_) -> None:
            return

    return Handler


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "status": "ERROR"}}).encode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve_earth_engine(**options) -> Iterator[EarthEngine]:
    """A running service; its address is ``url``."""
    service = EarthEngine(**options)
    server = _Server(("127.0.0.1", 0), _handler(service))
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
