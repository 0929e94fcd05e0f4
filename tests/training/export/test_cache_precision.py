from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import read_architecture
from training.export.cache_precision import quantize_cache
from training.export.cache_scales import calibrate_cache
from training.export.graph import write_graph
from training.export.losses import session_losses
from training.export.session import ReferenceRunner, open_session
from training.export.weights import Weights

HEADS, GROUPS, WIDTH, CAPACITY = 4, 2, 16, 48


@pytest.fixture(scope="module")
def graph(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    architecture, weights = read_architecture(tiny_checkpoint), Weights.read(tiny_checkpoint)
    return write_graph(architecture, weights, folder, precision="fp32", positions=160)


@pytest.fixture(scope="module")
def int8_session(graph: Path) -> ort.InferenceSession:
    windows = np.random.default_rng(7).integers(3, 259, (6, 41))
    scales = calibrate_cache(open_session(graph), windows)
    return open_session(quantize_cache(graph, graph.with_name("int8.onnx"), scales))


def attention_graph(path: Path) -> Path:
    """One attention operator alone, without rotation."""
    cache = ["B", GROUPS, "C", WIDTH]
    declared = {
        "qkv": (onnx.TensorProto.FLOAT, ["B", "S", (HEADS + 2 * GROUPS) * WIDTH]),
        "past_key_values.0.key": (onnx.TensorProto.FLOAT, cache),
        "past_key_values.0.value": (onnx.TensorProto.FLOAT, cache),
        "seqlens_k": (onnx.TensorProto.INT32, ["B"]),
        "total_len": (onnx.TensorProto.INT32, [1]),
        "query_seqlens": (onnx.TensorProto.INT32, ["B"]),
    }
    info = onnx.helper.make_tensor_value_info
    inputs = ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value"]
    inputs += ["seqlens_k", "total_len", *[""] * 9, "query_seqlens"]
    node = onnx.helper.make_node(
        "GroupQueryAttention",
        inputs,
        ["attended", "present.0.key", "present.0.value"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=GROUPS,
        scale=0.25,
    )
    results = [info("attended", onnx.TensorProto.FLOAT, ["B", "S", HEADS * WIDTH])]
    results += [info(f"present.0.{part}", *declared["past_key_values.0.key"])
                for part in ("key", "value")]  # fmt: skip
    made = onnx.helper.make_graph(
        [node], "attention", [info(name, *value) for name, value in declared.items()], results
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(
        onnx.helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    )
    return path


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Causal attention of one row, plainly: (S, H, K), (G, S, K), (G, S, K) -> (S, H K)."""
    attended = np.zeros_like(query)
    for position in range(len(query)):
        for head in range(HEADS):
            group, seen = head * GROUPS // HEADS, slice(0, position + 1)
            scores = key[group, seen] @ query[position, head] * 0.25
            weights = np.exp(scores - scores.max())
            attended[position, head] = weights / weights.sum() @ value[group, seen]
    return attended.reshape(len(query), -1)


@pytest.mark.parametrize("chunks", [(20,), (12, 8), (1,) * 20])
def test_quantized_cache_holds_rounded_values_and_reads_them(
    tmp_path: Path, chunks: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(0)
    scales = {
        f"past_key_values.0.{part}": generator.uniform(0.01, 0.03, (1, GROUPS, 1, WIDTH)).astype(
            np.float32
        )
        for part in ("key", "value")
    }
    path = quantize_cache(attention_graph(tmp_path / "a.onnx"), tmp_path / "b.onnx", scales)
    session = open_session(path)
    qkv = generator.normal(size=(1, 20, (HEADS + 2 * GROUPS) * WIDTH)).astype(np.float32)
    cache = [np.full((1, GROUPS, CAPACITY, WIDTH), 77, np.int8) for _ in range(2)]
    found, past = [], 0
    for count in chunks:
        inputs = dict(zip(scales, cache, strict=True)) | {
            "qkv": qkv[:, past : past + count],
            "seqlens_k": np.array([past + count - 1], np.int32),
            "total_len": np.array([past + count], np.int32),
            "query_seqlens": np.array([count], np.int32),
        }
        attended, *cache = session.run(None, inputs)
        found.append(attended[0])
        past += count

    heads = qkv[0].reshape(20, HEADS + 2 * GROUPS, WIDTH)
    query, *wanted = np.split(heads, [HEADS, HEADS + GROUPS], axis=1)
    stored = []
    for new, scale, held in zip(wanted, scales.values(), cache, strict=True):
        rounded = np.clip(np.rint(new.transpose(1, 0, 2) / scale[0]), -128, 127)
        assert np.array_equal(held[0, :, :20], rounded)
        stored.append(rounded * scale[0])
    assert (cache[0].min(), cache[0].max()) == (-128, 127)  # some were clipped
    np.testing.assert_allclose(np.concatenate(found), attend(query, *stored), atol=2e-6)


def test_quantize_cache_turns_every_state_tensor_and_shares_the_weights(
    graph: Path, int8_session: ort.InferenceSession
) -> None:
    inputs = {tensor.name: (tensor.type, tensor.shape) for tensor in int8_session.get_inputs()}
    outputs = {tensor.name: tensor.type for tensor in int8_session.get_outputs()}

    assert inputs["past_key_values.1.value"] == ("tensor(int8)", ["B", 2, "C", 32])
    assert inputs["seqlens_k"] == ("tensor(int32)", ["B"])
    assert [kind for name, kind in outputs.items() if "present" in name] == ["tensor(int8)"] * 4
    assert outputs["logits"] == "tensor(float)"
    assert [path.name for path in graph.parent.glob("*.data")] == ["model.onnx.data"]
    first = open_session(graph).get_inputs()[-1]
    assert first.type == "tensor(float)"  # the graph that was read stays as it was


def test_loss_through_an_int8_cache_is_close_in_any_chunks(
    tiny_session: ort.InferenceSession,
    int8_session: ort.InferenceSession,
    windows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fp32 = session_losses(tiny_session, windows)
    whole = session_losses(int8_session, windows)
    monkeypatch.setattr("training.export.losses._MAX_TOKENS", 7)
    chunked = session_losses(int8_session, windows)

    assert not np.array_equal(whole, fp32)
    np.testing.assert_allclose(whole, fp32, rtol=2e-3)
    np.testing.assert_allclose(chunked, whole, atol=2e-3)


def test_int8_cache_keeps_rows_apart(int8_session: ort.InferenceSession, tokens: list[int]) -> None:
    alone = ReferenceRunner(int8_session, slots=1, capacity=100)
    crowd = ReferenceRunner(int8_session, slots=4, capacity=100, fill=77)
    for runner, slot in ((alone, 0), (crowd, 2)):
        runner.step({slot: tokens[:20]})
    crowd.step({0: tokens[3:40], 1: tokens[:5]})
    crowd.copy_prefix(2, 3, 20)

    for index in range(20, 30):
        one = alone.step({0: tokens[index : index + 1]})[0]
        crowded = crowd.step({2: tokens[index : index + 1], 0: [9], 3: tokens[index : index + 1]})
        assert np.array_equal(crowded[2], one)
        assert np.array_equal(crowded[3], one)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gpt_neo"])
def test_int8_cache_honours_windows_and_caps(
    tmp_path: Path, family: str, tokens: list[int]
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, family=family)
    architecture, weights = read_architecture(checkpoint), Weights.read(checkpoint)
    graph = write_graph(architecture, weights, tmp_path, precision="fp32", positions=160)
    scales = calibrate_cache(open_session(graph), np.array([tokens]))
    int8 = quantize_cache(graph, tmp_path / "int8.onnx", scales)
    without = onnx.load_model(str(graph), load_external_data=False)
    for node in without.graph.node:
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i = -1
    (tmp_path / "without.onnx").write_bytes(without.SerializeToString())

    expected, found, wrong = (
        ReferenceRunner(open_session(path), slots=1, capacity=64).step({0: tokens})[0]
        for path in (graph, int8, tmp_path / "without.onnx")
    )

    assert np.abs(found - expected).max() < 0.25 * np.abs(wrong - expected).max()


def test_quantize_cache_leaves_a_graph_without_attention_alone(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:]))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString(deterministic=True))

    quantize_cache(tmp_path / "a.onnx", tmp_path / "b.onnx", {})

    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()
