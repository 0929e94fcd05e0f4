"""How answers are sampled where a request asks for neither temperature nor top_p."""

from typing import Literal

from pydantic import Field

from everloop.settings import Config


class SamplingDefaults(Config):
    """What a model version brings, within the limits of the API.

    Attributes:
        temperature: 0 takes the most probable token.
        top_k: None for all tokens.
        source: the file that came with the weights; or that they are imported, or trained here,
            and bring none.
    """

    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    source: Literal["generation_config.json", "imported", "trained"] = "trained"

    def with_temperature(self, temperature: float | None) -> "SamplingDefaults":
        """With the server's temperature, if it sets one and the weights bring none of their own."""
        if temperature is None or self.source == "generation_config.json":
            return self
        return self.model_copy(update={"temperature": temperature})

    def __str__(self) -> str:
        values = self.model_dump(exclude={"source"}, exclude_defaults=True)
        always = {"temperature": self.temperature, "top_p": self.top_p}
        named = ", ".join(f"{name} {value:g}" for name, value in (always | values).items())
        return f"{named} ({self.source})"


TRAINED = SamplingDefaults()
# Models of ordinary size answer with nonsense at temperature 1 and all tokens.
IMPORTED = SamplingDefaults(temperature=0.7, top_p=0.9, source="imported")
