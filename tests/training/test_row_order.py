from training.row_order import RowOrder


def test_row_order_takes_every_row_once_per_epoch() -> None:
    order = list(RowOrder([5, 9, 7, 1, 3], 2, length=12, seed=0))
    assert len(order) == 12
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order != list(RowOrder([5, 9, 7, 1, 3], 2, length=12, seed=1))


def test_row_order_does_not_sort_by_length() -> None:
    lengths = list(range(400))
    order = list(RowOrder(lengths, 4, length=400, seed=0))
    means = [sum(order[at : at + 4]) / 4 for at in range(0, 400, 4)]
    assert sum(means[:50]) / 50 < 1.5 * sum(means[50:]) / 50  # the long half is not the first half


def test_row_order_puts_like_lengths_into_one_step() -> None:
    lengths = [1, 100] * 200
    order = list(RowOrder(lengths, 4, length=400, seed=0))
    steps = [{lengths[row] for row in order[at : at + 4]} for at in range(0, 400, 4)]
    assert sum(len(step) == 1 for step in steps) > 80
