"""The table [server] of a run: limits of the API and the pace of the service around it."""

from pydantic import Field

from everloop.settings import Config


class ServerConfig(Config):
    """Limits of the API, and how the service follows the store."""

    default_max_tokens: int = Field(
        256, ge=1, description="Answer length of a chat request that names none, if it fits."
    )
    default_temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Of requests that set neither temperature nor top_p, where the weights bring "
        "none; absent: 0.7 with top_p 0.9 for imported weights, 1 for those trained here.",
    )
    max_body_bytes: int = Field(
        4 * 2**20, ge=1024, description="Longest request body that is read."
    )
    max_choices: int = Field(
        128, ge=1, description="Answers that one request may ask for, over all its prompts."
    )
    max_request_seconds: float | None = Field(
        600.0, gt=0, description="A request that is not answered after this time is ended."
    )
    keep_alive_seconds: float = Field(
        15.0, gt=0, description="Between comments in a stream that waits for its first token."
    )
    idempotency_seconds: float = Field(
        600.0, ge=0, description="How long a reply is kept for its Idempotency-Key; 0 for not."
    )
    idempotency_max_bytes: int = Field(
        16 * 2**20, ge=0, description="Memory of the replies that are kept; the oldest go first."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), strict=False, description="Names with a dot by which browsers may reach the server."
    )
    allowed_origins: tuple[str, ...] = Field(
        (), strict=False, description="Origins of web pages elsewhere that may call the server."
    )
    first_token_timeout_seconds: float = Field(
        300.0, gt=0, description="A request that has no token after this time is given up."
    )
    poll_seconds: float = Field(
        1.0, gt=0, description="How often the store is asked which version is the champion."
    )
    swap_grace_seconds: float = Field(
        120.0, ge=0, description="How long a replaced version may finish the answers it began."
    )
    drain_seconds: float = Field(
        5.0, ge=0, description="How long a stopping service waits for its last records."
    )
