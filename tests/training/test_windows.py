import numpy as np

from training.windows import TrainingWindows, ValidationWindows, as_example


def _stream(tokens: int = 43, context: int = 4, seed: int = 0) -> TrainingWindows:
    return TrainingWindows(np.arange(tokens, dtype=np.uint16), context, length=10_000, seed=seed)


def test_as_example_gives_each_input_its_next_token() -> None:
    example = as_example(np.array([5, 6, 7], dtype=np.uint16))
    assert example["input_ids"].tolist() == [5, 6]
    assert example["shift_labels"].tolist() == example["labels"].tolist() == [6, 7]
    assert example["input_ids"].dtype == np.int64


def test_training_windows_are_the_same_in_any_order() -> None:
    first, again = _stream(), _stream()
    forward = [first[index]["input_ids"].tolist() for index in range(30)]
    backward = [again[index]["input_ids"].tolist() for index in reversed(range(30))]
    assert forward == backward[::-1]


def test_training_windows_see_each_token_once_per_epoch() -> None:
    windows = _stream()
    per_epoch = (43 - 1) // 4 - 1
    for epoch in range(5):
        seen = np.concatenate(
            [windows[epoch * per_epoch + position]["input_ids"] for position in range(per_epoch)]
        )
        assert len(seen) == len(set(seen.tolist())) == per_epoch * 4


def test_training_windows_cut_epochs_at_different_places() -> None:
    windows = _stream()
    offsets = {int(windows[epoch * 9]["input_ids"][0]) % 4 for epoch in range(20)}
    assert len(offsets) > 1


def test_training_windows_reach_the_last_token() -> None:
    windows = _stream()
    assert max(int(windows[index]["labels"].max()) for index in range(900)) == 42


def test_training_windows_differ_by_seed() -> None:
    one, two = _stream(seed=1), _stream(seed=2)
    assert any(one[i]["input_ids"][0] != two[i]["input_ids"][0] for i in range(9))


def test_training_windows_take_the_shortest_shard() -> None:
    windows = TrainingWindows(np.arange(5, dtype=np.uint16), 4, length=3, seed=0)
    assert windows[2]["input_ids"].tolist() == [0, 1, 2, 3]


def test_validation_windows_spread_over_the_split() -> None:
    all_windows = np.arange(100, dtype=np.uint16)[:, None] + np.arange(3, dtype=np.uint16)
    chosen = ValidationWindows(all_windows, 5)
    assert [int(chosen[index]["input_ids"][0]) for index in range(5)] == [0, 25, 50, 74, 99]


def test_validation_windows_take_all_of_a_short_split() -> None:
    assert len(ValidationWindows(np.zeros((2, 5), dtype=np.uint16), 128)) == 2
