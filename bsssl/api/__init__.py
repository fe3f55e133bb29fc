"""The project for Python programs and notebooks: recipes, trained networks, scoring and selection without commands.

Nothing here touches the settings of the caller's program: log lines go to the standard logger ``bsssl``, which has no
handler of its own (``logging.basicConfig(level="INFO")`` shows them), progress bars go to standard error, and torch's
random state and number of threads are afterwards what they were before. What the user can mend is a ``UserError``,
worded as on the command line.
"""

from bsssl.api.loading import load
from bsssl.api.model import Model, Prediction, Preprocessing
from bsssl.api.recipe import Recipe
from bsssl.api.scoring import score
from bsssl.api.selecting import select
from bsssl.errors import UserError
from bsssl.reports.recipe import Results

__all__ = ["Model", "Prediction", "Preprocessing", "Recipe", "Results", "UserError", "load", "score", "select"]
