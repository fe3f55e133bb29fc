"""Show what the hashtags of a config mean; the same as ``bsssl tags inspect``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="tags inspect")
