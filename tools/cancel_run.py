"""End a launched run; the same as ``bsssl cancel``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="cancel")
