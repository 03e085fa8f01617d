"""Several texts in one field of a table."""

import ast


def split_list(text: str) -> list[str]:
    """Return the texts of a field: those of a list written as Python does, or the field as it is.

    Source: `toliststr` in `vlmeval/smp/misc.py` of VLMEvalKit.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    try:
        return [str(item) for item in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]
