"""`python -m papi_env`: the same as `papi-env`."""

import sys

from papi_env.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
