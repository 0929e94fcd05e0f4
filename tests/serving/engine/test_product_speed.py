import pytest

from serving.engine.product_speed import ROWS, measure_onnxruntime
from tests.serving.engine.product_graphs import FOLDER, product_graph


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_measured_graph_is_what_its_writer_writes(precision: str) -> None:
    assert (FOLDER / f"product_{precision}.onnx").read_bytes() == product_graph(precision)


def test_every_number_of_rows_is_measured() -> None:
    speed = measure_onnxruntime()

    assert tuple(product.rows for product in speed.products) == ROWS
    assert all(product.fp32 > 0 and product.int8 > 0 for product in speed.products)
