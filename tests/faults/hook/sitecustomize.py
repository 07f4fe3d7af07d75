"""Python imports this at its start where this folder is in PYTHONPATH: child processes of a struck run count too."""

import striker

striker.install_from_environment()
