"""A first config for data of one's own: looking at the data, choosing settings, writing them down."""
