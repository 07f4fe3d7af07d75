"""MONAI's 2-D networks without pooling and classifier, last stage at stride 1: total stride 16.

MONAI's own ``norm`` arguments do not reach every block (1.6.1), so norms are replaced afterwards.
"""

from collections import OrderedDict

from torch import nn

from lclsc.encoders.adapt import adapt, undo_stride
from lclsc.encoders.encoder import Encoder


def resnet(name: str) -> Encoder:
    """``resnet10``, ``resnet18`` (512 channels) or ``resnet50`` (2048)."""
    from monai.networks.nets import resnet as monai_resnet  # here: MONAI takes seconds to import

    build = getattr(monai_resnet, name)
    network = build(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False)
    undo_stride(network.layer4[0])
    parts = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    body = nn.Sequential(*(getattr(network, part) for part in parts))
    adapt(body)
    return Encoder(body, out_channels=network.in_planes, stride=16)


def densenet121() -> Encoder:
    """1024 channels; what follows the last norm in the classifier, a ReLU, is kept."""
    from monai.networks.nets import DenseNet121

    features = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).features
    features.transition3.pool = nn.Identity()
    body = nn.Sequential(OrderedDict([*features.named_children(), ("relu5", nn.ReLU(inplace=True))]))
    adapt(body)
    return Encoder(body, out_channels=1024, stride=16)
