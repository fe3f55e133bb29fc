"""What the figures of the contents stage say, for those who read them without the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bsssl.runtime.console import printable

LABELED, IN_POOL = "labeled", "pool"
"""the names of sets; the others are the tests"""
_OF = " of "
_EXAMPLES = 3


@dataclass(frozen=True)
class SameItems:
    """Items of a set that are copies of items of the same or another set."""

    items: str
    """the key of the config that sets what is in the set"""
    others: str
    count: int
    examples: tuple[str, ...] = ()
    """the names of both, of some of them; none in records from before they were kept"""

    @property
    def learned(self) -> bool:
        """Whether test items are labeled ones, so that the accuracies are too high."""
        return self.items.startswith("data.test") and self.others == key_of(LABELED)


def same_items(figures: Mapping[str, Any]) -> list[SameItems]:
    """Return what the figures of the finished stage say of copies, for each pair of sets that has some."""
    examples = figures.get("examples", {})
    pairs = ((*pair.split(_OF, 1), pair, count) for pair, count in figures["copies"].items())
    return [
        SameItems(key_of(items), key_of(others), count, tuple(examples.get(pair, ())))
        for items, others, pair, count in pairs
    ]


def told(figures: Mapping[str, Any]) -> list[str]:
    """Return what the figures of the finished stage say of copies and of what cannot be read, a line for each thing."""
    lines = [f"{key_of(items)}: {count:,} items cannot be read" for items, count in figures["unreadable"].items()]
    for same in same_items(figures):
        examples = f" (such as {', '.join(same.examples)})" if same.examples else ""
        end = ": the accuracies will be too high" if same.learned else ""
        lines.append(f"{same.items}: {same.count:,} items are copies of others in {same.others}{examples}{end}")
    if torn := figures.get("torn"):  # not in records from before it was looked for
        such = ", ".join(torn[:_EXAMPLES])
        lines.append(f"{len(torn):,} copies have another label than what they are of ({such}); correct the wrong ones")
    if figures["left_out"]:
        lines.append(f"{key_of(IN_POOL)}: {figures['left_out']:,} copies are left out of the selection")
    return [printable(line) for line in lines]


def pair_of(items: str, others: str) -> str:
    """Return what the figures call a pair of sets."""
    return f"{items}{_OF}{others}"


def key_of(items: str) -> str:
    """Return the key of a config that sets what is in a set."""
    return "data.train" if items == LABELED else f"data.{items.replace('-', '.', 1)}"
