"""Show what a launched run is doing; the same as ``bsssl status``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="status")
