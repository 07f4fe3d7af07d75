"""Stands for MLflow's scoring server: the same paths on the same socket, at once, and told what to do by a request.

python stand_in.py PACKAGE SOCKET PARENT
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

PACKAGE = Path(sys.argv[1])
BEHAVIOUR = json.loads((PACKAGE / "behaviour.json").read_text())


async def ping(request: Request) -> Response:
    return PlainTextResponse("\n")


async def invocations(request: Request) -> Response:
    asked = json.loads(await request.body())
    await asyncio.sleep(asked.get("sleep", 0))
    if asked.get("say"):
        print("x" * asked["say"], flush=True)
    if asked.get("crash"):
        os._exit(9)
    if "refuse" in asked:
        return JSONResponse(asked["refuse"], 400)
    shares = BEHAVIOUR["probabilities"]
    row = {"class": max(shares, key=shares.get), "probabilities": shares, "by": BEHAVIOUR["version"]}
    return JSONResponse({"predictions": [row]})


if __name__ == "__main__":
    if BEHAVIOUR.get("broken"):
        sys.exit(BEHAVIOUR["broken"])
    routes = [Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), uds=sys.argv[2], log_level="error", timeout_keep_alive=3600)
