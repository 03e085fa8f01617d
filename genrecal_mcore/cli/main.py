"""Entry point of `genrecal`: collects the verbs and turns errors into messages and exit codes.

0 is success, 1 a run that failed, 2 bad usage or input.
"""

import logging
import os
import sys
import time

import typer

from genrecal_mcore.cli import data, demo, evaluate, export, report, train

app = typer.Typer(
    help="Distil a large vision-language model into a small one with another tokenizer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")

logger = logging.getLogger(__name__)

MESSAGE_GRACE_S = 2.0


def main() -> None:
    """Run the command line; bad input ends with one message and code 2, a broken run with code 1."""
    try:
        app()
    except ValueError as error:
        _say(error)
        _leave(2)
    except RuntimeError as error:
        _say(error)
        _leave(1)


def _say(error: Exception) -> None:
    if logging.getLogger().handlers:  # a run's log file; without one, nobody reads a traceback
        logger.error("%s", error, exc_info=isinstance(error, RuntimeError))
    # Under torchrun every rank meets the same bad input: one of them says it.
    if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, RuntimeError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        # torchrun ends every rank of the host with the first that leaves, also the one that is to say it.
        time.sleep(MESSAGE_GRACE_S)


def _leave(code: int) -> None:
    """Exit at once: with a rank gone, waiting for communicators to close can take for ever."""
    logging.shutdown()
    sys.stdout.flush()
    if "LOCAL_RANK" in os.environ:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
