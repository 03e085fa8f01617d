"""Entry point of `genrecal`: collects the verbs and turns errors into messages and exit codes.

0 is success, 1 a run that failed, 2 bad usage or input, 75 a run that was asked to stop and can go on.
"""

import typer

from genrecal_mcore.cli import (
    cache,
    data,
    demo,
    diagnose,
    evaluate,
    explain,
    export,
    plan,
    profile,
    report,
    study,
    trace,
    train,
)
from genrecal_mcore.cli.leaving import leave, say

app = typer.Typer(
    help="Distil a large vision-language model into a small one with another tokenizer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("plan")(plan.plan)
app.command("profile")(profile.profile)
app.command("train")(train.train)
app.command("cache")(cache.cache)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("diagnose")(diagnose.diagnose)
app.command("report")(report.report)
app.command("explain")(explain.explain)
app.command("trace")(trace.trace)
app.command("demo")(demo.demo)
app.command("study")(study.study)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; bad input ends with one message and code 2, a broken run with code 1."""
    try:
        app()
    except ValueError as error:
        say(error)
        leave(2)
    except RuntimeError as error:
        say(error)
        leave(1)


if __name__ == "__main__":
    main()
