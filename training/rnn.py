"""A recurrent language model, LSTM or GRU, as a transformers model: Trainer, TRL, `generate` and
the export take it like any other.

torch's own recurrent layers between an embedding and a head; nothing is trained or exported here.
Documents that share a row never see each other: the state starts anew wherever `position_ids` is 0
or padding ends, so packed rows and left-padded batches give what each text gives alone.

Shapes: B rows, T tokens, D model width (`hidden_size`), L layers, V vocabulary, N documents.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from everloop.errors import ConfigError

State = tuple[Tensor, ...]  # LSTM: hidden and cell; GRU: hidden; each (L, B, D)

_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class RnnConfig(PreTrainedConfig):
    """config.json of a recurrent model.

    Attributes:
        cell: lstm or gru.
        hidden_size: width of the embedding, of every layer and of the head.
        dropout: share of values dropped after the embedding, between layers and before the head.
        max_position_embeddings: tokens that training shows at once. There are no positions, so it
            bounds nothing; the name is the one that other tools look for.
        initializer_range: standard deviation of the embedding's first weights.
    """

    model_type = "rnn"
    auto_map: ClassVar[dict[str, str]] = {}  # TRL asks for it; empty: no code in the folder

    cell: Literal["lstm", "gru"] = "lstm"
    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 2
    dropout: float = 0.0
    max_position_embeddings: int = 256
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check what transformers does not.

        Raises:
            ConfigError: the cell is unknown, or a size is below 1.
        """
        if self.cell not in _CELLS:
            raise ConfigError(f"cell must be one of {', '.join(_CELLS)}, got {self.cell!r}.")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        super().__post_init__(**kwargs)


class RnnPreTrainedModel(PreTrainedModel):
    """What the backbone and the model with a head share: names, and the first weights."""

    config_class = RnnConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Orthogonal recurrent weights, and LSTM cells that remember at first (forget bias 1).

        Source: Jozefowicz et al. 2015, An Empirical Exploration of Recurrent Network Architectures.
        """
        if not isinstance(module, nn.LSTM | nn.GRU):
            super()._init_weights(module)
            return
        width = module.hidden_size
        for name, parameter in module.named_parameters():
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            if name.startswith("weight_hh"):
                for gate in parameter.split(width):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                for gate in parameter.split(width):
                    nn.init.xavier_uniform_(gate)
            else:
                parameter.zero_()
                if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                    parameter[width : 2 * width] = 1.0  # gates: input, forget, cell, output


class RnnModel(RnnPreTrainedModel):
    """The backbone: embedding and recurrent layers."""

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rnn = _CELLS[config.cell](
            config.hidden_size,
            config.hidden_size,
            config.num_hidden_layers,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: State | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_flags: Any,
    ) -> BaseModelOutputWithPast:
        """Run the tokens of every row, each document from a state of zeros.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), or with the tokens before these; 0 for padding.
            position_ids: (B, T) or (1, T); 0 starts a document.
            past_key_values: state that the rows go on from.
            inputs_embeds: (B, T, D), instead of input_ids.
            use_cache: give the state after the last token.
            _flags: what Trainer and TRL hand to every architecture; none concerns this one.

        Raises:
            ValueError: padding follows the text while the state after the text is wanted.
        """
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.dropout(hidden)  # (B, T, D)
        if use_cache and attention_mask is not None and not attention_mask[:, -1].all():
            raise ValueError("a state after padding is of no use: pad the rows on the left.")
        starts = _document_starts(hidden, attention_mask, position_ids)
        if starts is None:
            hidden, state = self._run(hidden, past_key_values)
        else:
            hidden, state = self._run_documents(hidden, starts, past_key_values)
        cache: Any = state if use_cache else None  # transformers' annotation knows Cache only
        return BaseModelOutputWithPast(
            last_hidden_state=self.dropout(hidden), past_key_values=cache
        )

    def _run(self, hidden: Any, state: State | None) -> tuple[Any, State]:
        given = state[0] if state and self.config.cell == "gru" else state
        hidden, last = self.rnn(hidden, given)
        return hidden, last if isinstance(last, tuple) else (last,)

    def _run_documents(
        self, hidden: Tensor, starts: Tensor, state: State | None
    ) -> tuple[Tensor, State]:
        """Run each document as a row of its own, and put the rows together again."""
        rows, tokens, width = hidden.shape
        first = starts.flatten().nonzero().flatten()  # (N,)
        ends = torch.cat([first[1:], first.new_tensor([rows * tokens])])
        lengths = ends - first
        begins_row = first % tokens == 0
        if state is not None:  # only a row's first document goes on from it
            state = tuple(_place(part, begins_row) for part in state)
        documents = pad_sequence(
            hidden.reshape(rows * tokens, width).split(lengths.tolist()), batch_first=True
        )  # (N, longest, D)
        packed = pack_padded_sequence(
            documents, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        output, last = self._run(packed, state)
        padded, _ = pad_packed_sequence(output, batch_first=True)
        parts = [padded[index, :length] for index, length in enumerate(lengths.tolist())]
        ends_row = ends % tokens == 0
        joined = torch.cat(parts).reshape(rows, tokens, width)
        return joined, tuple(part[:, ends_row] for part in last)


class RnnForCausalLM(RnnPreTrainedModel, GenerationMixin):
    """The backbone with a head over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - as the base class declares it

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.model = RnnModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: State | None = None,
        use_cache: bool | None = None,
        **flags: Any,
    ) -> CausalLMOutputWithPast:
        """Give logits (B, T, V), and the loss where labels (B, T) are given.

        Args:
            input_ids: (B, T).
            labels: the tokens again, -100 where none is to be learnt; shifted here.
            logits_to_keep: logits of the last so many tokens only, or of these; 0 for all.
            attention_mask: as of RnnModel.
            position_ids: as of RnnModel.
            past_key_values: as of RnnModel.
            use_cache: as of RnnModel.
            flags: handed on; `num_items_in_batch` scales the loss.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **flags,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **flags
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values
        )

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the state is made by the first forward pass

    @staticmethod
    def _reorder_cache(past_key_values: State, beam_idx: Tensor) -> State:
        return tuple(part.index_select(1, beam_idx) for part in past_key_values)


def register() -> None:
    """Let transformers' Auto classes load recurrent checkpoints; a second call is harmless."""
    AutoConfig.register(RnnConfig.model_type, RnnConfig, exist_ok=True)
    AutoModel.register(RnnConfig, RnnModel, exist_ok=True)
    AutoModelForCausalLM.register(RnnConfig, RnnForCausalLM, exist_ok=True)


def _document_starts(
    hidden: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> Tensor | None:
    """Where documents begin, (B, T) with the first column set; None if nowhere else."""
    rows, tokens, _ = hidden.shape
    starts = torch.zeros((rows, tokens), dtype=torch.bool, device=hidden.device)
    if position_ids is not None:
        starts |= position_ids == 0
    if attention_mask is not None:
        real = attention_mask[:, -tokens:].bool()
        starts[:, 1:] |= real[:, 1:] & ~real[:, :-1]
    if not starts[:, 1:].any():
        return None
    starts[:, 0] = True
    return starts


def _place(state: Tensor, chosen: Tensor) -> Tensor:
    """Spread (L, B, D) over the chosen documents (N,), zeros elsewhere."""
    spread = state.new_zeros((state.shape[0], len(chosen), state.shape[2]))
    spread[:, chosen] = state
    return spread
