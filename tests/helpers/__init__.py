"""What several test files share: images, data, sources, command lines. The fixtures among it are in `conftest.py`."""
