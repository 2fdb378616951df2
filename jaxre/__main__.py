"""`python -m jaxre` is the `jaxre` command."""

import sys

from jaxre.command_line import main

sys.exit(main())
