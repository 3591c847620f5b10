"""``python -m stepwell``, for ``accelerate launch -m stepwell``."""

from stepwell.cli import main

if __name__ == "__main__":
    main()
