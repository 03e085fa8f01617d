"""What commands need, imported once for all of them by the process that they are forked from.

Its import is its purpose. Optional packages that a CPU does not have are no news, once a command either.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import genrecal_mcore.diagnostics
    import genrecal_mcore.evaluation
    import genrecal_mcore.training  # noqa: F401
