"""Files that the browser gets: styles, scripts, the logo."""

from pathlib import Path

ASSETS = Path(__file__).parent
