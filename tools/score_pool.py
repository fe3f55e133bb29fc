"""Score the pool with the teacher; the same as ``bsssl score``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="score")
