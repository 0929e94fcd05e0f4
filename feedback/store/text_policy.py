"""What text of an interaction or of feedback may be kept.

`full` keeps it as it was, `masked` (the usual) replaces personal data, `off` keeps none: then only
the numbers remain, and the loop cannot learn from the interaction.
"""

import hashlib
from typing import Literal

from everloop.pii import mask
from everloop.records import Feedback, Interaction

TextPolicy = Literal["full", "masked", "off"]


def keep_interaction(interaction: Interaction, policy: TextPolicy) -> Interaction:
    """The interaction as it may be stored."""
    kept = interaction.model_copy(update={"metadata": _keep_labels(interaction.metadata, policy)})
    if policy == "off":
        return kept.model_copy(update={"messages": (), "answer": None, "tools": None})
    messages = tuple(
        message.map_text(lambda text: _keep(text, policy)) for message in interaction.messages
    )
    answer = None if interaction.answer is None else _keep(interaction.answer, policy)
    return kept.model_copy(update={"messages": messages, "answer": answer})


def keep_feedback(feedback: Feedback, policy: TextPolicy) -> Feedback:
    """The feedback as it may be stored; a rating stays, and text goes by the policy."""
    update: dict[str, object] = {"tags": _keep_labels(feedback.tags, policy)}
    if isinstance(feedback.value, str):
        update["value"] = "" if policy == "off" else _keep(feedback.value, policy)
    return feedback.model_copy(update=update)


def _keep(text: str, policy: TextPolicy) -> str:
    # NUL and lone surrogates are no text in any database's UTF-8.
    storable = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return storable if policy == "full" else mask(storable)[0]


def _keep_labels(labels: dict[str, str], policy: TextPolicy) -> dict[str, str]:
    """Clients write text into metadata and tags too; never keep more than masked text of it.

    A user's name that is personal data becomes a pseudonym, so that what one user said can still be
    counted together; the conversation's id stays equal to the column by which it is found.
    """
    kept = {key: _keep(value, policy) for key, value in labels.items() if key != "conversation_id"}
    user = labels.get("user")
    if user is not None and policy != "full" and kept["user"] != user:
        digest = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
        kept["user"] = f"user-{digest[:16]}"
    if "conversation_id" in labels:
        kept["conversation_id"] = labels["conversation_id"]
    return kept
