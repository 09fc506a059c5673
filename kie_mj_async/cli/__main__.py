"""``python -m kie_mj_async.cli`` is ``kie-mj``."""

from . import main

main()
