"""Pandas, which only those need who ask for a data frame."""

from typing import Any

from bsssl.errors import UserError


def import_pandas() -> Any:
    """Return the module ``pandas``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("to_dataframe needs pandas, which is not installed: pip install pandas") from None
    return pandas
