"""The layers of a Transformer: attention and MLP, each added to the residual, with their norms.

Only the positions of `logits_index` go through the final norm. Shapes as in `graph.py`.
"""

from training.export.architecture import Attention
from training.export.attention import AttentionWriter
from training.export.mlp import write_mlp
from training.export.modules import Modules


class TransformerWriter:
    """Writes every layer of one checkpoint.

    Args:
        modules: of the checkpoint.
        body: its attention and MLP.
        positions: rows of the rotary tables.
    """

    def __init__(self, modules: Modules, body: Attention, positions: int) -> None:
        self._modules = modules
        self._body = body
        self._attention = AttentionWriter(modules, body, positions)

    def write(self, hidden: str, output: str) -> str:
        """Run the layers on the embedding (T, D); give the normalized rows `output` (R, D)."""
        modules, norm = self._modules, self._modules.architecture.family.attention_norm
        residual, normed = hidden, self._norm(0, hidden, norm)
        last = modules.architecture.n_layer - 1
        for layer in range(last):
            residual, update = self._layer(layer, residual, normed)  # (T, D) both
            normed, residual = self._add_and_norm(layer + 1, residual, update, norm)
        residual, update = self._layer(last, residual, normed)
        residual = modules.nodes.gather(residual, "logits_index", "wanted.residual")  # (R, D)
        update = modules.nodes.gather(update, "logits_index", "wanted.update")  # (R, D)
        family = modules.architecture.family
        return modules.add_and_norm(residual, update, family.final_norm, output)[0]

    def _layer(self, layer: int, residual: str, normed: str) -> tuple[str, str]:
        """Give the residual and what is still to be added to it, so that the next norm can add."""
        family = self._modules.architecture.family
        attended = self._attention.write(layer, normed)  # (T, D)
        attended = self._norm(layer, attended, family.attention_post_norm)
        if self._body.is_parallel:
            if family.mlp_norm != family.attention_norm:
                normed = self._norm(layer, residual, family.mlp_norm)
            mlp = write_mlp(self._modules, self._body, layer, normed)
            both = self._modules.nodes.add("Add", [attended, mlp], [f"layers.{layer}.update"])
            return residual, both
        normed, residual = self._add_and_norm(layer, residual, attended, family.mlp_norm)
        mlp = write_mlp(self._modules, self._body, layer, normed)  # (T, D)
        return residual, self._norm(layer, mlp, family.mlp_post_norm)

    def _norm(self, layer: int, x: str, norm: str | None) -> str:
        if norm is None:
            return x
        name = self._modules.name(layer, norm)
        return self._modules.norm(x, name, name)

    def _add_and_norm(
        self, layer: int, residual: str, update: str, norm: str | None
    ) -> tuple[str, str]:
        """The normalized sum and the sum; without a norm, the sum is both."""
        if norm is None:
            total = self._modules.nodes.add("Add", [residual, update], [f"{update}.sum"])
            return total, total
        name = self._modules.name(layer, norm)
        return self._modules.add_and_norm(residual, update, name, name)
