"""What the server of the explorer answers to programs and to other pages: nothing but what its own page asks."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import Server
from make_samples import make_scene
from PIL import Image

META = {"meta": {"_type": "gradio.FileData"}}
NOWHERE = "http://images.invalid/a.png"
PREDICT = "/gradio_api/run/predict"


@pytest.fixture(scope="module")
def take(server: Server) -> int:
    """The index of the function that takes dropped files."""
    config = json.loads(server.ask("/config")[1])
    drop = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "drop")
    return int(next(d["id"] for d in config["dependencies"] if drop in d["inputs"]))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(make_scene("flange", 1, 128)).save(path)
    return path.read_bytes()


def file(path: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.png", **META, **more}


def body(take: int, given: Any, **more: Any) -> dict[str, Any]:
    return {"data": [given, "sample: wood"], "fn_index": take, "session_hash": "stranger", **more}


def reached(server: Server) -> set[str]:
    """What the server connected to or looked up."""
    return {note for note in server.notes() if note.startswith(("connect ", "look up "))}


# ---- files --------------------------------------------------------------------------------------------------------------


def test_an_upload_is_taken_once_and_leaves_the_disk(server: Server, take: int, picture: bytes) -> None:
    status, (path,) = server.upload(("a b.png", picture))
    assert status == 200 and Path(path).exists()
    address = f"{server.url}/gradio_api/file={path}"
    status, answer = server.ask(PREDICT, body(take, [file(path, url=address, size=9, mime_type="image/png")]))
    assert status == 200 and "1 image added." in answer and not Path(path).exists()
    status, answer = server.ask(PREDICT, body(take, [file(path)]))
    assert status == 403 and "The file is not one that was uploaded here." in answer


@pytest.mark.parametrize(
    ("area", "rest", "said"),
    [("roi", [], "of the image."), ("good", ["sample: wood"], "1 image added."), ("others", [1], "1 image added.")],
)
def test_every_area_takes_files_as_the_first_one_does(
    area: str, rest: list[Any], said: str, server: Server, picture: bytes
) -> None:
    config = json.loads(server.ask("/config")[1])
    drop = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == area)
    keep = int(next(d["id"] for d in config["dependencies"] if drop in d["inputs"]))
    before = reached(server)
    for given in (file(NOWHERE), file("/etc/hostname"), {"path": NOWHERE}, [file(NOWHERE)], NOWHERE):
        assert server.ask(PREDICT, body(keep, None, data=[given, *rest]))[0] == 403
    status, (path,) = server.upload(("a.png", picture))
    given = file(path) if area == "roi" else [file(path)]
    status, answer = server.ask(PREDICT, body(keep, None, data=[given, *rest]))
    assert status == 200 and said in answer and not Path(path).exists()
    assert server.ask(PREDICT, body(keep, None, data=[given, *rest]))[0] == 403
    assert reached(server) == before


ADDRESSES = [
    NOWHERE,
    "https://images.invalid/a.png",
    " http://images.invalid/a.png",
    "HTTP://images.invalid/a.png",
    "ftp://images.invalid/a.png",
    "file:///etc/hostname",
    "//images.invalid/a.png",
    "http://127.0.0.1:1/a.png",
    "data:image/png;base64,iVBORw0KGgo=",
    "/etc/hostname",
    "",
    "a\0b",
    "/" + "x" * 5000,
    None,
    7,
    [NOWHERE],
]
SHAPES: dict[str, Callable[[Any], Any]] = {
    "files": lambda path: [file(path)],
    "one file": file,
    "without the mark": lambda path: [{"path": path}],
    "with an address": lambda path: [file(path, url=NOWHERE)],
    "address alone": lambda path: [{"url": path, **META}],
    "lists in lists": lambda path: [[file(path)]],
    "below a value": lambda path: {"value": [file(path)]},
    "below a file": lambda path: [file("a.png", more={"files": [file(path)]})],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_address_in_place_of_a_path_is_refused_and_nobody_is_asked(shape: str, server: Server, take: int) -> None:
    before = reached(server)
    for address in ADDRESSES:
        status, answer = server.ask(PREDICT, body(take, SHAPES[shape](address)))
        assert status == 403 and "The file is not one that was uploaded here." in answer, (address, answer)
    assert reached(server) == before


def test_an_address_is_refused_wherever_it_stands(server: Server, take: int, picture: bytes) -> None:
    before = reached(server)
    _, (path,) = server.upload(("a.png", picture))
    relative = os.path.relpath(path, server.folder)
    bodies = [
        body(take, [file(path, url=NOWHERE)]),
        body(take, [file(path, orig_name=NOWHERE)]),
        body(take, [file(f"http://images.invalid/../../{relative}")]),  # which lies in the folder once dots are resolved
        body(take, [file(relative)]),
        body(take, [file(path), file(NOWHERE)]),
        body(take, NOWHERE),
        body(take, [NOWHERE]),
        body(take, "data:image/png;base64,iVBORw0KGgo="),
        body(take, None, data=[None, file(NOWHERE)]),
        body(take, None, event_data=file(NOWHERE)),
        body(take, None, **file(NOWHERE)),
    ]
    for given in bodies:
        status, answer = server.ask(PREDICT, given)
        assert status == 403 and "added" not in answer, (given, answer)
    assert reached(server) == before and Path(path).exists()


def test_a_link_in_the_folder_of_uploads_leads_nowhere(server: Server, take: int, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture)
    _, (path,) = server.upload(("a.png", picture))
    link, pipe = Path(path).with_name("link.png"), Path(path).with_name("pipe.png")
    link.symlink_to(tmp_path / "secret.png")
    os.mkfifo(pipe)
    for other in (link, pipe, Path(path).parent, Path(path).parents[1], tmp_path / "secret.png"):
        assert server.ask(PREDICT, body(take, [file(str(other))]))[0] == 403
    assert (tmp_path / "secret.png").exists()


def test_what_is_no_json_is_refused(server: Server, take: int) -> None:
    whole = json.dumps(body(take, None)).encode()
    for data in (b"", b"{", b"\xff", whole[:-1], b"[" * 100_000, whole + b" " * 2**20):
        assert server.ask(PREDICT, data, {"Content-Type": "application/json"})[0] in (400, 413), data[:20]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/predict/",
        "/gradio_api/run/take",
        "/gradio_api/api/predict",
        "/gradio_api/call/take",
        "/gradio_api/call/v2/take",
        "/gradio_api/queue/join",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-edit",
        "/gradio_api/upload/",
        "//gradio_api/run/predict",
        "/gradio_api/../gradio_api/queue/join",
        "/",
        "/login",
    ],
)
def test_nothing_else_can_be_posted_to(path: str, server: Server, take: int) -> None:
    before = reached(server)
    status, answer = server.ask(path, body(take, [file(NOWHERE)]))
    assert status == 403 and "The explorer's page does not use this." in answer
    assert reached(server) == before


@pytest.mark.parametrize("path", ["file", "proxy", "%66ile", "x/../file"])
def test_no_address_and_no_path_can_be_read_through_the_server(path: str, server: Server) -> None:
    before = reached(server)
    for address in (NOWHERE, "https://images.invalid/a", "http%3A//images.invalid/a.png", "/etc/hostname"):
        assert server.ask(f"/gradio_api/{path}={address}")[0] == 403, address
        assert server.ask(f"//gradio_api/{path}={address}")[0] == 403, address
    assert server.ask("/files/../../etc/hostname/x")[0] == 404
    assert reached(server) == before


def test_nothing_can_be_called_that_the_page_does_not_call(server: Server) -> None:
    config = json.loads(server.ask("/config")[1])
    assert {d["api_visibility"] for d in config["dependencies"]} == {"private"}


# ---- other pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/config", "/theme.css", "/assets/x.js", "/files/a/b.jpg", "/gradio_api/heartbeat/x", PREDICT, "upload"]
)
def test_another_origin_is_refused_everywhere(path: str, server: Server, take: int, picture: bytes) -> None:
    def asked(origin: str) -> tuple[int, Any]:
        headers = {"Origin": origin}
        if path == "upload":
            return server.upload(("a.png", picture), headers=headers)
        return server.ask(path, body(take, None) if path == PREDICT else None, headers)

    others = (
        "http://evil.example",
        "null",
        "http://localhost:1",
        f"http://localhost:{server.port}",
        "https" + server.url[4:],
        "",
    )
    before = server.files()
    for origin in others:
        status, answer = asked(origin)
        assert status == 403 and "Only the explorer's own page may ask for this." in answer, (origin, answer)
    assert server.files() == before
    if "heartbeat" not in path:  # which never ends
        assert asked(server.url)[0] in (200, 404)


def test_another_origin_gets_no_leave_in_advance(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    asked = {"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"}
    connection.request("OPTIONS", "/gradio_api/upload", headers=asked)
    answer = connection.getresponse()
    assert answer.status == 403 and answer.getheader("Access-Control-Allow-Origin") is None
    connection.close()


def test_the_server_listens_on_the_loopback_interface_and_to_its_own_names(server: Server) -> None:
    for name in (f"localhost:{server.port}", f"127.0.0.1:{server.port}"):
        assert server.ask("/", headers={"Host": name, "Origin": f"http://{name}"})[0] == 200
    for name in ("evil.example", f"evil.example:{server.port}", f"127.0.0.1.evil.example:{server.port}"):
        assert server.ask("/", headers={"Host": name})[0] == 400
        assert server.ask("/gradio_api/upload", b"", headers={"Host": name, "Origin": f"http://{name}"})[0] == 400
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    heard = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{server.port:04X}")]
    assert heard == [f"0100007F:{server.port:04X}"]


# ---- uploads that no page takes -----------------------------------------------------------------------------------------


def test_uploads_that_no_page_takes_are_bounded(server: Server, take: int, picture: bytes) -> None:
    part = bytes(31 * 2**20)
    status, said = server.upload(*[(f"{i}.png", part) for i in range(9)])
    assert status == 413 and "The files dropped at once have 279 MB; 257 MB is the most." in said
    refused = 0
    for i in range(5):
        status, said = server.upload(*[(f"{i} {k}.png", part + bytes([i, k])) for k in range(4)])
        if refused := refused + (status == 413):
            assert "Other uploads have not been taken by their pages yet." in said
    assert refused and sum(path.stat().st_size for path in server.files()) <= 512 * 2**20
    for folder in {path.parent for path in server.files()}:
        os.utime(folder, (0, 0))  # as if it was long ago
    status, (path,) = server.upload(("a.png", picture))
    assert status == 200 and server.files() == [Path(path)]
    assert server.ask(PREDICT, body(take, [file(path)]))[0] == 200


def test_a_request_says_how_long_it_is(server: Server) -> None:
    for path in ("/gradio_api/upload", PREDICT):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", path, iter([b"x" * 100] * 3), {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == 411
        connection.close()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_uploads_that_break_off_and_that_nobody_takes_are_swept(server: Server, picture: bytes) -> None:
    head = b'--line\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=line\r\n"
            b"Content-Length: 900000\r\n\r\n" + head + bytes(300_000)
        )
        (folder,) = server.temporary.iterdir()
        wait_for(lambda: bool(list(folder.glob("tmp*"))), 20)
    status, (path,) = server.upload(("a.png", picture))
    assert status == 200 and not list(folder.glob("tmp*"))
    wait_for(lambda: not Path(path).exists(), 60)  # half a minute
    wait_for(lambda: not Path(path).parent.exists(), 5)
    assert "Traceback" not in server.said(), server.said()
