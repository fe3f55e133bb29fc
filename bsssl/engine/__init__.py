"""The loops: training, prediction, features, scoring, evaluation; checkpoints and metrics."""
