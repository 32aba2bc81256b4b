"""`python -m ops.cli`, the same as `supportstream`."""

from ops.cli.main import main

main()
