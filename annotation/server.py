"""The page and its requests, on Starlette."""

import asyncio
import json
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import BaseFileLock
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from annotation.cut import cut
from annotation.export import EXPORTS, export
from annotation.project import DIRECTIONS, UNCERTAIN, OpenSession, Project
from annotation.runs import pack, unpack
from annotation.workspace import Workspace, read_user_mask
from datasets.images import PALETTE
from util.errors import InputError, describe
from util.lock import hold

STATIC = Path(__file__).parent / "static"
MAX_OBJECT = 254  # 255 is the object in 0/255 masks
PING = 1  # seconds without news after which the connection is tested


class Annotator:
    """The videos that may be opened, the one that is open, and the pages that listen.

    Args:
        videos: what the page offers: name → file or folder.
        masks: by name of the video, masks to take in, see `Workspace`.
        folder: the workspace.
    """

    def __init__(
        self,
        videos: Mapping[str, Path],
        masks: Mapping[str, Mapping[int, Path]],
        folder: Path,
        open_session: OpenSession,
    ):
        self.videos, self.masks, self.folder, self.open_session = videos, masks, folder, open_session
        self.worker = ThreadPoolExecutor(1)
        self.listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[str]]] = set()
        self.is_closing: Callable[[], bool] = lambda: False  # whether the server wants to end
        self.name = ""  # of the open video
        self.page = secrets.token_urlsafe(8)  # of the page that was opened last: the only one that is served
        self.opened: Project | None = None
        self._lock: BaseFileLock | None = None  # on the open video's part of the workspace
        self._opening = threading.Lock()

    def project(self, request: Request) -> Project:
        """The open video, for requests of the page that has opened it: another one may still show another video."""
        if self.opened is None or request.path_params["page"] != self.page:
            raise HTTPException(409, "opened in another tab or window since; reload this page to go on here")
        return self.opened

    def open(self, name: str) -> None:
        """Open one of the videos. Raises `InputError` for one that cannot be read, or that another server has open."""
        with self._opening:  # or a second request for the video would meet the lock of the first
            workspace = Workspace(self.videos[name], self.folder, self.masks.get(name))
            video = workspace.name
            if self.opened is None or self.opened.workspace.name != video:
                taken = f"{video}: another annotate.py has it open in {self.folder}; expected another --workspace"
                lock = hold(self.folder / ".locks" / video, taken)
                if self._lock:
                    self._lock.release()
                self._lock = lock
            if self.opened is not None:
                self.opened.close()
            self.page = secrets.token_urlsafe(8)  # before it is open: no late request may reach another video
            self.opened, self.name = Project(workspace, self.open_session, self.worker, self.publish), name

    def publish(self, event: str, data: Mapping[str, Any]) -> None:
        """Send an event to all pages; may be called from any thread."""
        text = f"event: {event}\ndata: {json.dumps(data)}\n\n"
        for loop, queue in list(self.listeners):
            loop.call_soon_threadsafe(queue.put_nowait, text)

    def close(self) -> None:
        """Stop the worker after the frame that is being segmented."""
        if self.opened is not None:
            self.opened.close()
        self.worker.shutdown(cancel_futures=True)
        if self._lock:
            self._lock.release()


def make_app(annotator: Annotator) -> Starlette:
    """The application, without `annotation.guard.Guard`."""

    def frame_of(request: Request) -> int:
        index = request.path_params["frame"]
        if index >= annotator.project(request).workspace.length:
            raise HTTPException(404, f"there is no frame {index}")
        return index

    async def ids_of(request: Request) -> np.ndarray:
        """The mask in the body, H×W uint8."""
        return unpack(await request.body(), annotator.project(request).workspace.size, MAX_OBJECT)

    def mask_response(ids: np.ndarray) -> Response:
        return Response(pack(ids), media_type="application/octet-stream")

    def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    def begin(request: Request) -> Response:
        """For a page that has been opened: what it needs to know, and from now on no other page is served."""
        annotator.page = secrets.token_urlsafe(8)
        request.path_params["page"] = annotator.page
        workspace = annotator.project(request).workspace
        answer: dict[str, Any] = {"page": annotator.page, "videos": list(annotator.videos), "video": annotator.name}
        answer |= {"frames": workspace.length, "names": workspace.names, "size": workspace.size}
        answer |= {"fps": float(workspace.fps), "palette": PALETTE.tolist(), "uncertain": UNCERTAIN}
        answer |= {"exports": list(EXPORTS), **annotator.project(request).state()}
        return JSONResponse(answer)

    def state(request: Request) -> Response:
        return JSONResponse(annotator.project(request).state())

    async def open_video(request: Request) -> Response:
        annotator.project(request)
        name = (await request.body()).decode(errors="replace")
        if name not in annotator.videos:  # the list is all there is: no path comes from outside
            raise HTTPException(404, "no such video")
        await run_in_threadpool(annotator.open, name)
        return Response(status_code=204)

    async def events(request: Request) -> Response:
        project, page = annotator.project(request), annotator.page
        listener = asyncio.get_running_loop(), asyncio.Queue[str]()

        async def stream() -> AsyncIterator[str]:
            annotator.listeners.add(listener)
            try:
                yield f"event: state\ndata: {json.dumps(project.state())}\n\n"
                while not annotator.is_closing() and page == annotator.page:
                    try:
                        yield await asyncio.wait_for(listener[1].get(), PING)
                    except asyncio.TimeoutError:  # another type than TimeoutError before Python 3.11
                        yield ": ping\n\n"
            finally:
                annotator.listeners.discard(listener)

        return StreamingResponse(stream(), media_type="text/event-stream")

    def picture(request: Request) -> Response:
        image = annotator.project(request).workspace.image(frame_of(request))
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        return Response(jpeg.tobytes(), media_type="image/jpeg")

    def get_mask(request: Request) -> Response:
        ids = annotator.project(request).workspace.mask(frame_of(request), request.query_params.get("of", ""))
        return mask_response(ids)

    async def put_mask(request: Request) -> Response:
        complete = request.query_params.get("complete") == "1"
        await run_in_threadpool(annotator.project(request).annotate, frame_of(request), await ids_of(request), complete)
        return Response(status_code=204)

    def delete_mask(request: Request) -> Response:
        annotator.project(request).annotate(frame_of(request), None)
        return Response(status_code=204)

    async def import_mask(request: Request) -> Response:
        """A PNG → its ids, for the page to edit."""
        body, size = await request.body(), annotator.project(request).workspace.size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "mask.png")
            path.write_bytes(body)
            try:
                ids = await run_in_threadpool(read_user_mask, path, size)
            except InputError as error:
                raise InputError(str(error).replace(str(path), "the mask")) from error
        return mask_response(ids)

    async def cut_box(request: Request) -> Response:
        try:
            x0, y0, x1, y1 = map(int, request.query_params["box"].split(","))
        except (KeyError, ValueError) as error:
            raise InputError("expected box=x0,y0,x1,y1 in pixels") from error
        frame, hints = frame_of(request), await ids_of(request)
        image = await run_in_threadpool(annotator.project(request).workspace.image, frame)
        mask = await run_in_threadpool(cut, image, (x0, y0, x1, y1), hints)
        return mask_response(mask.astype(np.uint8))

    async def put_object(request: Request) -> Response:
        name = (await request.body()).decode(errors="replace")[:40]
        await run_in_threadpool(annotator.project(request).name_object, object_of(request), name)
        return Response(status_code=204)

    def object_of(request: Request) -> int:
        if not 1 <= request.path_params["id"] <= MAX_OBJECT:
            raise HTTPException(404, f"expected an object from 1 to {MAX_OBJECT}")
        return request.path_params["id"]

    def delete_object(request: Request) -> Response:
        annotator.project(request).remove_object(object_of(request))
        return Response(status_code=204)

    def propagate(request: Request) -> Response:
        direction, frame = request.query_params.get("direction"), request.query_params.get("frame", "")
        if (
            direction not in DIRECTIONS
            or not frame.isdecimal()
            or int(frame) >= annotator.project(request).workspace.length
        ):
            raise InputError(f"expected a frame, and a direction: {', '.join(DIRECTIONS)}")
        annotator.project(request).propagate(int(frame), direction)
        return Response(status_code=204)

    def pause(request: Request) -> Response:
        annotator.project(request).pause()
        return Response(status_code=204)

    def make_export(request: Request) -> Response:
        workspace, name = annotator.project(request).workspace, request.path_params["name"]
        if name not in EXPORTS or not workspace.frames_with_masks():
            raise HTTPException(404, "there is no such export, or no mask yet")
        export(workspace, name, workspace.exports)
        return Response(status_code=204)

    def get_export(request: Request) -> Response:
        workspace, name = annotator.project(request).workspace, request.path_params["name"]
        if name not in EXPORTS or not (workspace.exports / name).is_file():
            raise HTTPException(404, "nothing of that name was exported")
        return FileResponse(workspace.exports / name, filename=f"{workspace.name}-{name}")

    def refused(request: Request, error: Exception) -> Response:
        """Of bad input, or by the operating system: the page shows why."""
        text = describe(error) if isinstance(error, OSError) else str(error)
        return Response(text, 400, media_type="text/plain")

    routes = [
        Route("/", page),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/api/begin", begin, methods=["POST"]),
        Route("/api/{page}/state", state),
        Route("/api/{page}/open", open_video, methods=["POST"]),
        Route("/api/{page}/events", events),
        Route("/api/{page}/frame/{frame:int}.jpg", picture),
        Route("/api/{page}/mask/{frame:int}", get_mask),
        Route("/api/{page}/mask/{frame:int}", put_mask, methods=["PUT"]),
        Route("/api/{page}/mask/{frame:int}", delete_mask, methods=["DELETE"]),
        Route("/api/{page}/import", import_mask, methods=["POST"]),
        Route("/api/{page}/cut/{frame:int}", cut_box, methods=["POST"]),
        Route("/api/{page}/object/{id:int}", put_object, methods=["PUT"]),
        Route("/api/{page}/object/{id:int}", delete_object, methods=["DELETE"]),
        Route("/api/{page}/propagate", propagate, methods=["POST"]),
        Route("/api/{page}/pause", pause, methods=["POST"]),
        Route("/api/{page}/export/{name}", make_export, methods=["POST"]),
        Route("/api/{page}/export/{name}", get_export),
    ]
    return Starlette(routes=routes, exception_handlers={InputError: refused, OSError: refused})
