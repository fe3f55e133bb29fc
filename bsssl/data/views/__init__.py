"""From pixels to the inputs of a network: transforms, clips, and how many views an item has."""
