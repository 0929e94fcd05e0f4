from training.cleaning.personal_data import MaskPersonalData


def test_format_masks_and_counts() -> None:
    block = MaskPersonalData()
    text = block.format("Ada <ada@example.org>, bob@example.org, call 212-555-0123.")
    assert text == "Ada <<EMAIL>>, <EMAIL>, call <PHONE>."
    assert block.format("nothing here") == "nothing here"
    assert block.stats["masked_email"].total == 2
    assert block.stats["masked_phone"].total == 1
