"""What commands need, imported once in the process that a study forks them from: that is its purpose."""

from genrecal_mcore.cli.quiet import quick_imports, quiet_imports

quiet_imports()
with quick_imports():
    import genrecal_mcore.diagnostics
    import genrecal_mcore.evaluation
    import genrecal_mcore.training  # noqa: F401
