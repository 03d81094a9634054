"""``python -m pcl_auto``."""

from pcl_auto.cli.main import run

if __name__ == "__main__":
    run()
