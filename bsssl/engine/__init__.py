"""The loops: train, predict, score, evaluate. None of them knows whether it sees images or videos."""
