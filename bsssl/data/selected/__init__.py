"""The selection as a training set, in place or copied into tars."""
