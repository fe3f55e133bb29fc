"""Select the student's training set; the same as ``bsssl select``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="select")
