"""Networks of the four papers, short compositions of the layers; import them from
``gliomaseg_layers``.

``AttributeDeepLab`` alone needs more than torch: timm, of the extra ``networks``. The costs in the
documentation count the multiply-adds of convolutions and matrix products.
"""

from gliomaseg_layers.networks.attribute_deeplab import AttributeDeepLab
from gliomaseg_layers.networks.gated import GatedSegmenter
from gliomaseg_layers.networks.msfen import MSFEN
from gliomaseg_layers.networks.munet import MUNet
from gliomaseg_layers.networks.unet import UNet

__all__ = ["MSFEN", "AttributeDeepLab", "GatedSegmenter", "MUNet", "UNet"]
