"""GET /v1/models and /v1/models/{id}: the champion, by its names and by its full tag."""

import datetime
import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from serving.openai_api.responses import Model, ModelList, ModelSampling
from serving.openai_api.sampling import sampling_defaults
from serving.openai_api.state import ApiState, state_of

if TYPE_CHECKING:
    from serving.engine.llm_engine import LLMEngine


async def list_models(request: Request) -> Response:
    """All names of the champion; empty while none is loaded."""
    api = state_of(request)
    version = api.engine.current
    data = [] if version is None else _models(api, version)
    return Response(ModelList(object="list", data=data).to_json(), media_type="application/json")


async def retrieve_model(request: Request) -> Response:
    """One model that requests may name."""
    api, name = state_of(request), request.path_params["model"]
    models = _models(api, api.version_named(name))
    model = next(model for model in models if model.id == name)
    return Response(model.to_json(), media_type="application/json")


def _models(api: ApiState, version: "LLMEngine") -> list[Model]:
    sampling = ModelSampling.model_validate(
        sampling_defaults(version.manifest, api.config).model_dump()
    )
    return [
        Model(
            id=name,
            object="model",
            created=_created(version.manifest.version),
            owned_by="everloop",
            batch_invariant=version.batch_invariant,
            sampling=sampling,
        )
        for name in api.names_of(version)
    ]


def _created(version: str) -> int:
    """Unix time in a version such as v20261124101500-1a2b3c; 0 for a version of another form."""
    match = re.fullmatch(r"v(\d{14})-.*", version)
    if match is None:
        return 0
    moment = datetime.datetime.strptime(match[1], "%Y%m%d%H%M%S")
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
