"""Train one stage; the same as ``bsssl train``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="train")
