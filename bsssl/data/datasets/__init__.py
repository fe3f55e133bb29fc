"""Where records come from: folders, manifests, tars, and the layouts of known data sets."""
