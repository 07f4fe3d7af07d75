"""What comes in is checked where it comes in: cause and remedy instead of an error from within a kernel."""

from torch import Tensor


def pictures(image_B1SS: Tensor, fov_B1SS: Tensor) -> None:
    """ValueError unless these are grey square images and a mask for each, by shape and type."""
    shape = tuple(image_B1SS.shape)
    if len(shape) != 4 or shape[1] != 1 or shape[2] != shape[3]:
        raise ValueError(f"images are {shape}: grey square ones are (B, 1, S, S)")
    if not image_B1SS.is_floating_point():
        raise ValueError(f"images are {image_B1SS.dtype}: give floats in [0, 1]")
    if tuple(fov_B1SS.shape) != shape:
        raise ValueError(f"fields of view are {tuple(fov_B1SS.shape)} and images {shape}: give each image its own")


def grey_values(image_B1SS: Tensor, sample_index_B: Tensor) -> None:
    """ValueError unless all pixels are finite and in [0, 1]; reads them."""
    fine_B = ((image_B1SS >= 0) & (image_B1SS <= 1)).flatten(1).all(1)
    if not fine_B.all():
        wrong = sample_index_B[~fine_B].tolist()[:5]
        found = [float(value) for value in image_B1SS[~fine_B].aminmax()]
        raise ValueError(f"samples {wrong} have values from {found[0]:g} to {found[1]:g}: scale images to [0, 1]")


def class_numbers(labels_N: Tensor, count: int, classes: int) -> Tensor:
    """The labels as int64; ValueError unless they are ``count`` whole numbers of 0..classes-1; reads them."""
    if labels_N.is_floating_point() or labels_N.is_complex() or tuple(labels_N.shape) != (count,):
        raise ValueError(
            f"labels are {labels_N.dtype} {tuple(labels_N.shape)}: give {count} class numbers, int64 ({count},)"
        )
    labels_N = labels_N.long()
    wrong = labels_N[(labels_N < 0) | (labels_N >= classes)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])} is none of the classes 0..{classes - 1}")
    return labels_N
