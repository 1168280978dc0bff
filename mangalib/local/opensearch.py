"""A stand-in for OpenSearch: the index, document, ``_bulk`` and k-NN ``_search`` calls of opensearch-py."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from mangalib.local.faults import FaultInjector
from mangalib.local.latency import LatencyModel, LatencyProfile
from mangalib.local.service import Announce
from mangalib.settings import LocalSettings

VERSION = "2.17.0"
MAX_BODY_BYTES = 100 * 1024 * 1024
FAULT_KINDS = ("throttle", "reset", "stall", "internal")


class Index:
    """One index: documents by id, and the dimensions of their vector fields."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        properties = body.get("mappings", {}).get("properties", {})
        self.vectors = {name: p["dimension"] for name, p in properties.items() if p.get("type") == "knn_vector"}
        self.documents: dict[str, dict[str, Any]] = {}
        self._matrices: dict[str, tuple[list[str], np.ndarray[Any, Any]]] = {}

    def put(self, document_id: str, document: dict[str, Any]) -> bool:
        """Add or replace a document; returns whether it is new. Raises ``ValueError`` for a vector of the wrong length."""
        for name, dimension in self.vectors.items():
            if name in document and len(document[name]) != dimension:
                raise ValueError(f"Vector dimension mismatch. Expected: {dimension}, Given: {len(document[name])}")
        new = document_id not in self.documents
        self.documents[document_id] = document
        self._matrices.clear()
        return new

    def delete(self, document_id: str) -> bool:
        """Remove a document; returns whether it existed."""
        self._matrices.clear()
        return self.documents.pop(document_id, None) is not None

    def nearest(self, field: str, vector: list[float], count: int) -> list[tuple[str, float]]:
        """Ids and scores of the nearest documents; the score is (1 + cosine) / 2, as in OpenSearch.

        Raises ``ValueError`` for a vector of another length than the field's.
        """
        if len(vector) != self.vectors.get(field):
            raise ValueError(
                f"Query vector has invalid dimension: {len(vector)}. Dimension should be: {self.vectors.get(field)}"
            )
        ids, matrix = self._matrix(field)
        query = np.asarray(vector, dtype=np.float32)
        scores = (1 + matrix @ (query / (np.linalg.norm(query) or 1))) / 2
        order = np.argsort(-scores, kind="stable")[:count]
        return [(ids[i], float(scores[i])) for i in order]

    def _matrix(self, field: str) -> tuple[list[str], np.ndarray[Any, Any]]:
        if field not in self._matrices:
            ids = [document_id for document_id, document in self.documents.items() if field in document]
            rows = np.asarray([self.documents[i][field] for i in ids], dtype=np.float32).reshape(len(ids), -1)
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            self._matrices[field] = ids, rows / np.where(norms == 0, 1, norms)
        return self._matrices[field]


class OpenSearchStandIn:
    """The service's HTTP interface."""

    def __init__(self, settings: LocalSettings) -> None:
        rng = random.Random(settings.local_seed)
        self._latency = LatencyModel(LatencyProfile.from_settings(settings), rng)
        self._faults = FaultInjector(FAULT_KINDS, rng)
        self._indices: dict[str, Index] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle a request of the service or of its admin interface."""
        parts = [part for part in request.path.split("/") if part]
        body = await request.read()
        try:
            if parts[:1] == ["_local"]:
                return self._admin(request.method, parts[1:], body)
            if (fault := self._faults.next_for_request()) is not None:
                match fault.kind:
                    case "throttle":
                        return _error(429, "rejected_execution_exception", "too many requests")
                    case "internal":
                        return _error(500, "exception", "internal error")
                    case "reset":
                        assert request.transport is not None
                        request.transport.abort()
                    case "stall":
                        await self._faults.hold(fault)
            return await self._dispatch(request, parts, body)
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, IndexError) as error:
            return _error(400, "illegal_argument_exception", str(error))

    async def _dispatch(self, request: web.BaseRequest, parts: list[str], body: bytes) -> web.Response:
        match request.method, parts:
            case "GET" | "HEAD", []:
                return web.json_response({"version": {"number": VERSION, "distribution": "opensearch"}})
            case "POST" | "PUT", ["_bulk"] | [_, "_bulk"]:
                return self._bulk(parts[0] if len(parts) == 2 else None, body)
            case "GET" | "POST", [name, "_search"]:
                return await self._search(name, msgspec.json.decode(body or b"{}"), request.query)
            case "GET" | "POST", [name, "_count"]:
                return web.json_response({"count": len(self._index(name).documents)})
            case "GET" | "POST", [_, "_refresh"]:
                return web.json_response({"_shards": {"total": 1, "successful": 1, "failed": 0}})
            case "PUT", [name]:
                return self._create(name, msgspec.json.decode(body or b"{}"))
            case "DELETE", [name]:
                self._index(name)
                del self._indices[name]
                return web.json_response({"acknowledged": True})
            case "HEAD", [name]:
                return web.Response(status=200 if name in self._indices else 404)
            case "GET", [name]:
                return web.json_response({name: self._index(name).body})
            case (("GET" | "HEAD"), [name, "_doc", document_id]):
                return self._get(name, document_id)
            case (("PUT" | "POST"), [name, "_doc", document_id]):
                return self._put(name, document_id, msgspec.json.decode(body))
            case "DELETE", [name, "_doc", document_id]:
                found = self._index(name).delete(document_id)
                return _result(name, document_id, "deleted" if found else "not_found", 200 if found else 404)
        return _error(405, "method_not_allowed", f"{request.method} {request.path}")

    def _index(self, name: str) -> Index:
        if name not in self._indices:
            raise _NoIndexError(name)
        return self._indices[name]

    def _create(self, name: str, body: dict[str, Any]) -> web.Response:
        if name in self._indices:
            return _error(400, "resource_already_exists_exception", f"index [{name}] already exists")
        self._indices[name] = Index(body)
        return web.json_response({"acknowledged": True, "shards_acknowledged": True, "index": name})

    def _put(self, name: str, document_id: str, document: dict[str, Any]) -> web.Response:
        new = self._indices.setdefault(name, Index({})).put(document_id, document)
        return _result(name, document_id, "created" if new else "updated", 201 if new else 200)

    def _get(self, name: str, document_id: str) -> web.Response:
        document = self._index(name).documents.get(document_id)
        found = {"_index": name, "_id": document_id, "found": document is not None}
        return web.json_response(found | ({"_source": document} if document else {}), status=200 if document else 404)

    def _bulk(self, default_index: str | None, body: bytes) -> web.Response:
        started, items, errors = time.monotonic(), [], False
        lines = iter([line for line in body.split(b"\n") if line.strip()])
        for line in lines:
            ((action, target),) = msgspec.json.decode(line).items()
            name, document_id = target.get("_index", default_index), str(target["_id"])
            outcome: dict[str, Any] = {"_index": name, "_id": document_id}
            try:
                if action == "delete":
                    outcome["status"] = 200 if self._index(name).delete(document_id) else 404
                else:
                    document = msgspec.json.decode(next(lines))
                    new = self._indices.setdefault(name, Index({})).put(document_id, document)
                    outcome |= {"status": 201 if new else 200, "result": "created" if new else "updated"}
            except ValueError as error:
                errors = True
                outcome |= {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": str(error)}}
            items.append({action: outcome})
        took = int((time.monotonic() - started) * 1000)
        return web.json_response({"took": took, "errors": errors, "items": items})

    async def _search(self, name: str, body: dict[str, Any], query_string: Any) -> web.Response:
        started = time.monotonic()
        index = self._index(name)
        size = int(body.get("size", 10))
        query = body.get("query", {"match_all": {}})
        if "knn" in query:
            ((field, knn),) = query["knn"].items()
            await asyncio.sleep(self._latency.knn_s())
            found = index.nearest(field, knn["vector"], min(size, int(knn["k"])))
        elif "match_all" in query:
            found = [(document_id, 1.0) for document_id in list(index.documents)[:size]]
        else:
            return _error(
                400, "parsing_exception", f"unknown query [{', '.join(query)}]; this service knows knn and match_all"
            )
        excluded = set(query_string.get("_source_excludes", "").split(","))
        hits = [
            {
                "_index": name,
                "_id": document_id,
                "_score": score,
                "_source": {k: v for k, v in index.documents[document_id].items() if k not in excluded},
            }
            for document_id, score in found
        ]
        total = {"value": len(hits), "relation": "eq"}
        took = int((time.monotonic() - started) * 1000)
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        best = hits[0]["_score"] if hits else None
        return web.json_response(
            {
                "took": took,
                "timed_out": False,
                "_shards": shards,
                "hits": {"total": total, "max_score": best, "hits": hits},
            }
        )

    def _admin(self, method: str, parts: list[str], body: bytes) -> web.Response:
        match method, parts:
            case "POST", ["profile"]:
                self._latency.profile = self._latency.profile.changed(body)
                return web.json_response(msgspec.to_builtins(self._latency.profile))
            case "POST" | "DELETE", ["faults"]:
                return web.json_response(self._faults.change(method, body))
        return _error(404, "not_found", "/".join(parts))


class _NoIndexError(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(f"no such index [{name}]")


def _result(name: str, document_id: str, result: str, status: int) -> web.Response:
    return web.json_response({"_index": name, "_id": document_id, "result": result}, status=status)


def _error(status: int, kind: str, reason: str) -> web.Response:
    error = {"type": kind, "reason": reason, "root_cause": [{"type": kind, "reason": reason}]}
    return web.json_response({"error": error, "status": status}, status=status)


async def serve(settings: LocalSettings, announce: Announce) -> None:
    """Run until cancelled."""
    loop = asyncio.get_running_loop()

    def request_of(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    server = web.Server(OpenSearchStandIn(settings).handle, request_factory=request_of, access_log=None)
    listener = await loop.create_server(server, "127.0.0.1", 0, backlog=1024)
    announce({"opensearch_url": f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"})
    try:
        await asyncio.Event().wait()
    finally:
        listener.close()
        await server.shutdown(timeout=0.1)
