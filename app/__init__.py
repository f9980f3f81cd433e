"""What people touch: the `moescope` command, the Streamlit pages and the figures."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
"""Files that the browser gets: styles, scripts, the logo."""
TOKEN = "MOESCOPE_APP_TOKEN"
"""Environment variable by which the app's process learns the token; absent for one person on loopback."""
