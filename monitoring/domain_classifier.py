"""One number for "do people ask something else now?": can a classifier tell the windows apart.

A small linear model over character n-grams learns to tell reference questions from current ones;
its cross-validated area under the ROC curve is 0.5 where nothing changed, 1 where everything did.
Characters rather than words: no vocabulary, every script, and narrow text, on which Evidently's own
text drift fails.
"""

from collections.abc import Sequence

from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

_FOLDS = 5
_MAX_CHARS = 2_000  # a prompt can be a whole document; its beginning is enough to know its kind


def text_auc(reference: Sequence[str], current: Sequence[str], seed: int) -> float:
    """Measure how well a classifier tells two sets of texts apart.

    Args:
        reference, current: at least five texts each.
        seed: shuffles the folds.

    Returns:
        Area under the ROC curve over held-out texts; about 0.5 when both come from one source.
    """
    texts = [text[:_MAX_CHARS] for text in (*reference, *current)]
    labels = [0] * len(reference) + [1] * len(current)
    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**16)
    # liblinear runs in one thread: lbfgs took 25 times as long here, its threads waiting for cores.
    model = LogisticRegression(class_weight="balanced", solver="liblinear", random_state=seed)
    scores = cross_val_predict(
        model,
        vectors.transform(texts),
        labels,
        cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed),
        method="decision_function",
    )
    return float(roc_auc_score(labels, scores))
