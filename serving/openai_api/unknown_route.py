"""What a client is told that asks for a route which is not there."""

# Of OpenAI's API, by the beginning of the path, with what serves instead.
_INSTEAD = {
    "/v1/responses": "Use /v1/chat/completions.",
    "/v1/assistants": "Use /v1/chat/completions with the whole conversation.",
    "/v1/threads": "Use /v1/chat/completions with the whole conversation.",
    "/v1/moderations": "Moderation is not part of this server; ask a model with "
    "/v1/chat/completions.",
    "/v1/images": "This server has models of text only.",
    "/v1/audio": "This server has models of text only.",
    "/v1/realtime": "Use /v1/chat/completions with stream: true.",
    "/v1/files": "Data is read by `everloop data build`.",
    "/v1/fine_tuning": "Models are trained by `everloop train`.",
    "/v1/batches": "Send the requests one by one; the server batches them itself.",
    "/v1/vector_stores": "Use /v1/embeddings and a store of your own.",
}
_ROUTES = "The routes are in /openapi.json."
_MAX_SHOWN = 80


def unknown_route(path: str) -> str:
    """Name a route that is not there, and what serves instead."""
    shown = repr(path if len(path) <= _MAX_SHOWN else path[: _MAX_SHOWN - 3] + "...")
    for beginning, instead in _INSTEAD.items():
        if path == beginning or path.startswith(beginning + "/"):
            return f"There is no route {shown} on this server. {instead}"
    return f"There is no route {shown} on this server. {_ROUTES}"
