"""Scales of an int8 key and value cache, from what a model writes into its cache on real text.

Each channel of each head has a scale of its own that reaches beyond the largest magnitude seen:
other texts hold larger ones, and what is clipped loses far more than finer steps win
(docs/decisions.md).
"""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from training.export.session import ReferenceRunner

MAX_WINDOWS = 16  # the largest magnitudes hardly grow after a few thousand tokens
_MAX_TOKENS = 512  # of one run: it holds the activations of all of them
_STEPS = 127  # from zero to the end of int8
# Of the layer's largest scale: a channel that was silent on these texts may speak on others.
_LEAST_SHARE = 1 / 64
_HEADROOM = 1.3  # times the largest magnitude seen

CacheScales = Mapping[str, np.ndarray]
"""Name of a state input to its scales, float32 [1, G, 1, K]."""


def calibrate_cache(session: ort.InferenceSession, windows: np.ndarray) -> CacheScales:
    """Run windows of tokens and take the scales from the keys (rotated) and values in the cache.

    Args:
        session: of a graph whose cache is float32.
        windows: token ids [N, context + 1]; at most 16, evenly spread over them, are used.
    """
    chosen = np.linspace(0, len(windows) - 1, min(MAX_WINDOWS, len(windows))).astype(int)
    context = windows.shape[1] - 1
    runner = ReferenceRunner(session, slots=1, capacity=context)
    largest = {
        name: np.zeros(values.shape[1:2] + values.shape[3:])
        for name, values in runner.state.items()
    }
    for window in windows[chosen]:
        runner.lengths[:] = 0
        for start in range(0, context, _MAX_TOKENS):
            runner.fill({0: window[start : min(start + _MAX_TOKENS, context)].tolist()})
        for name, values in runner.state.items():  # (1, G, C, K)
            largest[name] = np.maximum(largest[name], np.abs(values[0]).max(axis=1))
    return {name: _scales(values) for name, values in largest.items()}


def _scales(largest: np.ndarray) -> np.ndarray:
    """Scales of the largest magnitudes [G, K]."""
    # A layer that wrote nothing but zeros needs some scale, too.
    least = float(largest.max()) * _LEAST_SHARE or 1.0
    scales = np.maximum(largest, least) * _HEADROOM / _STEPS
    return scales.astype(np.float32)[None, :, None, :]
