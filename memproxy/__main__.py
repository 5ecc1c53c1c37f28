"""The command `memproxy`, also as `python -m memproxy`.

Loading takes a second or two. SIGTERM ends an ordinary process meanwhile, but the first process of a container ignores
what it has no handler for, and its orchestrator would wait out the whole grace period.
"""

import signal
import sys


def _leave(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


signal.signal(signal.SIGTERM, _leave)

from memproxy.cli import main  # noqa: E402  see above

if __name__ == "__main__":
    main()
