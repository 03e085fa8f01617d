"""How a command says what went wrong, and leaves."""

import logging
import os
import sys
import time

logger = logging.getLogger(__name__)

MESSAGE_GRACE_S = 2.0


def say(error: Exception) -> None:
    """Print an error once, and put it into the rank's log file if there is one."""
    if logging.getLogger().handlers:  # a run's log file; without one, nobody reads a traceback
        logger.error("%s", error, exc_info=isinstance(error, RuntimeError))
    # Under torchrun every rank meets the same bad input: one of them says it.
    if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, RuntimeError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        # torchrun ends every rank of the host with the first that leaves, also the one that is to say it.
        time.sleep(MESSAGE_GRACE_S)


def leave(code: int) -> None:
    """Exit at once: with a rank gone, waiting for communicators to close can take for ever."""
    logging.shutdown()
    sys.stdout.flush()
    if "LOCAL_RANK" in os.environ:
        os._exit(code)
    sys.exit(code)
