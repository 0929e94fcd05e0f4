"""GET /v1/models and /v1/models/{id}: the champion, by its name and by its full tag."""

import datetime
import re

from starlette.requests import Request
from starlette.responses import Response

from everloop.manifest import Manifest
from serving.openai_api.responses import Model, ModelList
from serving.openai_api.state import state_of


async def list_models(request: Request) -> Response:
    """Both names of the champion; empty while none is loaded."""
    version = state_of(request).engine.current
    data = [] if version is None else _models(version.manifest, version.batch_invariant)
    return Response(ModelList(object="list", data=data).to_json(), media_type="application/json")


async def retrieve_model(request: Request) -> Response:
    """One model that requests may name."""
    name = request.path_params["model"]
    version = state_of(request).version_named(name)
    models = _models(version.manifest, version.batch_invariant)
    model = next(model for model in models if model.id == name)
    return Response(model.to_json(), media_type="application/json")


def _models(manifest: Manifest, batch_invariant: bool) -> list[Model]:
    created = _created(manifest.version)
    return [
        Model(
            id=name,
            object="model",
            created=created,
            owned_by="everloop",
            batch_invariant=batch_invariant,
        )
        for name in (manifest.name, manifest.tag)
    ]


def _created(version: str) -> int:
    """Unix time in a version such as v20261124101500-1a2b3c; 0 for a version of another form."""
    match = re.fullmatch(r"v(\d{14})-.*", version)
    if match is None:
        return 0
    moment = datetime.datetime.strptime(match[1], "%Y%m%d%H%M%S")
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
