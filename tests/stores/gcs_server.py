"""A stand-in for Google Cloud Storage on loopback, run as a program: it prints its port.

Google's JSON interface as its reference describes it, as far as gcsfs uses it for the five verbs. It shows
that the requests are made and the answers understood, not that Google answers so.
"""

import json
import re
import sys
import threading

from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler, make_server

app = Flask(__name__)
objects: dict[str, bytes] = {}
uploads: dict[str, tuple[str, bool, bytes]] = {}
lock = threading.Lock()


class QuietHandler(WSGIRequestHandler):
    def log(self, *args):
        pass


def failure(code: int, message: str) -> Response:
    return Response(
        json.dumps({"error": {"code": code, "message": message}}), code, mimetype="application/json"
    )


def store(name: str, content: bytes, is_new: bool) -> Response | dict:
    if is_new and name in objects:
        return failure(412, "At least one of the pre-conditions you specified did not hold.")
    objects[name] = content
    return {"name": name, "bucket": "bucket", "size": str(len(content)), "generation": "1"}


@app.before_request
def find_bucket() -> Response | None:
    lock.acquire()
    bucket = (request.view_args or {}).get("bucket", "bucket")
    return None if bucket == "bucket" else failure(404, "The specified bucket does not exist.")


@app.teardown_request
def release(error: BaseException | None) -> None:
    lock.release()


@app.post("/reset")
def reset() -> dict:
    objects.clear()
    return {}


@app.post("/upload/storage/v1/b/<bucket>/o")
def upload(bucket: str) -> Response | dict:
    is_new = request.args.get("ifGenerationMatch") == "0"
    if request.args["uploadType"] == "resumable":
        uploads[str(len(uploads))] = (request.json["name"], is_new, b"")
        return Response(headers={"Location": f"{request.host_url}resume/{len(uploads) - 1}"})
    head, content = re.fullmatch(
        rb"--==0==\n[^{]*(\{.*?\})\n--==0==\n[^\n]*\n\n(.*)\n--==0==--", request.get_data(), re.DOTALL
    ).groups()
    return store(json.loads(head)["name"], content, is_new)


@app.post("/resume/<number>")
def resume(number: str) -> Response | dict:
    name, is_new, content = uploads[number]
    content += request.get_data()
    uploads[number] = (name, is_new, content)
    if request.headers["Content-Range"].endswith(f"/{len(content)}"):
        return store(name, content, is_new)
    return Response(status=308, headers={"Range": f"bytes=0-{len(content) - 1}"})


@app.get("/download/storage/v1/b/<bucket>/o/<path:name>")
def download(bucket: str, name: str) -> Response:
    if name not in objects:
        return failure(404, f"No such object: bucket/{name}")
    first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"]).groups()
    if int(first) >= len(objects[name]):
        return Response("Request range not satisfiable", 416)
    return Response(objects[name][int(first) : int(last) + 1], 206)


@app.delete("/storage/v1/b/<bucket>/o/<path:name>")
def delete(bucket: str, name: str) -> Response:
    return Response(status=204) if objects.pop(name, None) is not None else failure(404, "No such object")


@app.get("/storage/v1/b/<bucket>/o/<path:name>")
def describe(bucket: str, name: str) -> Response | dict:
    if name not in objects:
        return failure(404, f"No such object: bucket/{name}")
    return {"name": name, "bucket": "bucket", "size": str(len(objects[name]))}


@app.get("/storage/v1/b/<bucket>/o")
def list_objects(bucket: str) -> dict:
    prefix, delimiter = request.args.get("prefix", ""), request.args.get("delimiter", "")
    below = sorted(name for name in objects if name.startswith(prefix))
    deep = [name for name in below if delimiter and delimiter in name[len(prefix) :]]
    return {
        "items": [{"name": name, "size": str(len(objects[name]))} for name in below if name not in deep],
        "prefixes": sorted(
            {prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter for name in deep}
        ),
    }


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
