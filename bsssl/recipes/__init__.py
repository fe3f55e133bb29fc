"""Which stages run, and in which order: the recipe, the transfer, sweeps and the reproduction of the paper."""
