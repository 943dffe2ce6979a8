"""The page of teach.py, for this machine alone: addresses, and who may ask.

    app = make_app(session, "token", 8000)      # an ASGI application
    serve(session, 8000, lambda address: ...)   # until Ctrl-C

Every address begins with a random token, which the page's own address tells. Other hosts' names, pages of
other origins and bodies that are not JSON are refused. session: a session.Session, or review.Review.
"""
import contextlib
import hmac
import json
import os
import re
import secrets
import socket
from pathlib import Path

from lrcn.base import Lazy, UserError, files

applications, routing = Lazy("starlette.applications"), Lazy("starlette.routing")
responses, concurrency = Lazy("starlette.responses"), Lazy("starlette.concurrency")
datastructures, uvicorn = Lazy("starlette.datastructures"), Lazy("uvicorn")

PAGE, REPORT = Path(__file__).parent, Path(__file__).parents[1] / "pages"
FILES = {path.name: path for path in (PAGE / "teach.js", PAGE / "review.js", PAGE / "teach.css",
                                      REPORT / "page.css", REPORT / "shared.js")}
LARGEST = 1 << 16       # bytes of a question
PATIENCE = 20           # seconds that a question for news waits
HEADERS = [(b"content-security-policy",
            b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self' "
            b"'unsafe-inline'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
            b"form-action 'none'"),
           (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
           (b"cache-control", b"no-store"), (b"cross-origin-resource-policy", b"same-origin")]


def guarded(app, token, port):
    """The ASGI app for those alone who know the token, from this machine's own names and pages."""
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
    origins = {f"http://{host}" for host in hosts}

    async def call(scope, receive, send):
        async def headed(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        if scope["type"] != "http":
            return
        told = datastructures.Headers(scope=scope)
        key = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        if told.get("host") not in hosts or not origins.issuperset(told.getlist("origin")):
            answer = responses.PlainTextResponse("not from there", 403)
        elif not hmac.compare_digest(key.encode("utf-8", "replace"), token.encode()):
            answer = responses.PlainTextResponse("not here", 404)
        else:
            answer = app
        await answer(scope, receive, headed)
    return call


async def _words(request):
    """What a request asks: its address's parameters, and the object in its body. ValueError: it is none."""
    asked = {**request.query_params, **request.path_params}
    if request.method == "POST":
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ValueError("the body must be application/json")
        body = await request.body()
        if len(body) > LARGEST:
            raise ValueError("the body is too large")
        value = json.loads(body or b"{}")
        if not isinstance(value, dict):
            raise ValueError("the body must hold an object")
        asked |= value
    return asked


def _route(path, function, method="GET"):
    """A Route that answers with function(what was asked): an object as JSON, a Path as a file."""
    async def endpoint(request):
        try:
            value = await concurrency.run_in_threadpool(function, await _words(request))
        except (UserError, ValueError, RecursionError) as error:
            return responses.JSONResponse({"error": str(error)}, 400)
        except (LookupError, FileNotFoundError):
            return responses.JSONResponse({"error": "there is no such thing here"}, 404)
        if isinstance(value, Path):
            return responses.FileResponse(value)
        return responses.JSONResponse(value)
    return routing.Route(path, endpoint, methods=[method])


def make_app(session, token, port):
    """The ASGI application of a session."""
    def state(asked):
        session.wait(int(str(asked.get("after", -1))[:20]), PATIENCE)
        return session.state()

    def after(function):
        """What a key changed, and what to ask next."""
        return lambda asked: {"moments": function(asked), "state": session.state()}

    routes = [
        _route("/", lambda _: PAGE / "teach.html"),
        *(_route(f"/{name}", lambda _, path=path: path) for name, path in FILES.items()),
        _route("/api/state", state)]
    if hasattr(session, "label"):
        routes += [
            _route("/api/next", lambda _: {"moments": session.next()}),
            _route("/clip/{id}.mp4", lambda asked: session.clip(asked["id"], asked.get("start"),
                                                                asked.get("end"))),
            _route("/api/label", after(session.label), "POST"),
            _route("/api/undo", after(lambda _: session.undo()), "POST"),
            _route("/api/class", lambda asked: {"classes": session.add_class(asked.get("name", ""))}, "POST"),
            _route("/api/find", lambda asked: {"moments": session.find(
                asked.get("by", ""), asked.get("value", ""), asked.get("time"))}),
            _route("/api/finish", lambda _: {"finish": session.finish()}, "POST")]
    if hasattr(session, "items"):
        routes += [
            _route("/api/items", lambda _: {"items": session.items()}),
            _route("/api/item", lambda asked: {"item": session.item(asked)}, "POST"),
            _route("/thumb/{number}.mp4", lambda asked: session.thumb(asked["number"])),
            _route("/film/{number}.jpg", lambda asked: session.strip(asked["number"], asked.get("from"),
                                                                     asked.get("to")))]
    return guarded(applications.Starlette(routes=[routing.Mount(f"/{token}", routes=routes)]), token, port)


def _listen(port, kept):
    """(socket, token) of a page: as the last time where that can be, so that an open page goes on after a
    restart. kept: a file that remembers them, for this user alone."""
    before = {}
    with contextlib.suppress(UserError):
        before = files.read_json(kept)
    token, last, listening = str(before.get("token")), before.get("port"), None
    if not re.fullmatch(r"[\w-]{32,64}", token, re.ASCII):
        token = secrets.token_urlsafe(24)
    if port == 0 and isinstance(last, int):
        with contextlib.suppress(OSError, OverflowError):
            listening = socket.create_server(("127.0.0.1", last))
    try:
        listening = listening or socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen there ({error.strerror}); try another, or 0 for any "
                        f"free one") from None
    kept.unlink(missing_ok=True)
    with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"port": listening.getsockname()[1], "token": token}, file)
    return listening, token


def serve(session, port, opened):
    """Serve a session's page on 127.0.0.1 until Ctrl-C. port: 0 for that of the last time, or any free one;
    opened: is called with the page's address. UserError: the port is taken."""
    listening, token = _listen(port, session.folder / ".page.json")
    with listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(make_app(session, token, port), log_level="error", lifespan="off",
                                timeout_graceful_shutdown=1, server_header=False)
        opened(f"http://127.0.0.1:{port}/{token}/")
        uvicorn.Server(config).run(sockets=[listening])
