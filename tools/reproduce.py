"""Run a grid of settings; the same as ``bsssl reproduce``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="reproduce")
