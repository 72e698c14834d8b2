"""``python -m sparse_tasks``."""

from sparse_tasks.cli.main import main

if __name__ == "__main__":
    main()
