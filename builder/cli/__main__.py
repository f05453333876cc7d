"""`python -m builder.cli`: the same as `tutelage`."""

from builder.cli.main import main

main()
