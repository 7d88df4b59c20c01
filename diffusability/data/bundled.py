"""Files bundled with scikit-learn, found without importing it.

The import takes one or two seconds of CPU, as long as the rest of many jobs of a small study.
"""

from importlib.util import find_spec
from pathlib import Path

from diffusability.errors import DataError


def bundled_file(name: str) -> Path:
    """Return the path of a file of `sklearn.datasets`, such as `data/digits.csv.gz`.

    Raises:
        DataError: scikit-learn is not installed, or this version of it has no such file.
    """
    package = find_spec("sklearn")  # finds a package without importing it
    if package is None or package.origin is None:
        raise DataError("digits and shapes come with scikit-learn, which is not installed")
    file = Path(package.origin).with_name("datasets") / name
    if not file.is_file():
        raise DataError(
            f"{file} does not exist in this version of scikit-learn; install the versions of "
            "requirements.lock"
        )
    return file
