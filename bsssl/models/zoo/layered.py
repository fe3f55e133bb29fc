"""What timm's networks say of their layers, for networks of other libraries."""

import math
import re
from collections.abc import Callable
from typing import ClassVar

from torch import nn


class Layered(nn.Module):
    """A network that says to which layer a parameter belongs, as timm's networks do."""

    block_names: ClassVar[re.Pattern[str]]
    """the beginning of the name of a parameter of a block, whose number is the group"""
    top_names: ClassVar[re.Pattern[str]]
    """the beginning of the name of a parameter of what comes after the blocks"""

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Return what gives the number of a parameter's layer by its name.

        That is 0 for what comes before the blocks, and the last for what comes after.
        """
        return self._layer_of

    def _layer_of(self, name: str) -> float:
        if self.top_names.match(name):
            return math.inf
        block = self.block_names.match(name)
        return 1 + int(block[1]) if block else 0
