"""What is refused, and what stands just within."""

import pytest
import torch

from lclsc import checks

SAMPLES = torch.tensor([40, 41, 42])


def test_black_and_white_are_grey_values():
    checks.grey_values(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.rand(1, 2, 2)]), SAMPLES)


@pytest.mark.parametrize(("value", "found"), [(1.5, "from 0 to 1.5"), (-0.25, "from -0.25 to 0"), (torch.nan, "nan")])
def test_one_pixel_beyond_names_its_sample_and_the_range(value, found):
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 1, 0] = value
    with pytest.raises(ValueError, match=r"samples \[41\].*" + found):
        checks.grey_values(images, SAMPLES)


def test_labels_are_the_numbers_of_the_classes():
    assert checks.class_numbers(torch.tensor([0, 2], dtype=torch.int32), 2, 3).dtype == torch.int64
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"label {wrong} is none of the classes 0..2"):
            checks.class_numbers(torch.tensor([0, wrong]), 2, 3)
    for wrong in (torch.tensor([0.0, 1.0]), torch.tensor([0, 1, 2]), torch.tensor([[0, 1]])):
        with pytest.raises(ValueError, match="give 2 class numbers"):
            checks.class_numbers(wrong, 2, 3)
