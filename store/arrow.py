"""pyarrow's compute functions, which it makes at import time, so no type checker knows their names."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
