"""Compare checkpoints on another labeled set; the same as ``bsssl transfer``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="transfer")
