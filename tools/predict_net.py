"""Predict pictures or videos with a trained network; the same as ``bsssl predict``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="predict")
