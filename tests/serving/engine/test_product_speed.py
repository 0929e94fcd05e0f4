import onnxruntime as ort
import pytest

from everloop.machine_record import load_record
from serving.engine.product_speed import ROWS, measure_onnxruntime, onnxruntime_record
from tests.serving.engine.product_graphs import FOLDER, product_graph


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graphs_are_those_that_their_script_writes(precision: str) -> None:
    assert (FOLDER / f"product_{precision}.onnx").read_bytes() == product_graph(precision)


def test_every_number_of_rows_is_measured_in_both_precisions() -> None:
    speed = measure_onnxruntime()
    assert speed.version == ort.__version__
    assert tuple(product.rows for product in speed.products) == ROWS
    assert all(product.fp32 > 0 and product.int8 > 0 for product in speed.products)


def test_the_record_keeps_what_was_measured() -> None:
    assert onnxruntime_record().onnxruntime == load_record().onnxruntime
