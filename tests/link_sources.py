"""Lets pyright follow `moescope.*` in tests: links the source folders under .pyright/moescope."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
target = ROOT / ".pyright" / "moescope"
target.mkdir(parents=True, exist_ok=True)
for package in ("app", "tracer", "store", "kernels", "sample_data"):
    link = target / package
    if not link.is_symlink():
        link.symlink_to(ROOT / package, target_is_directory=True)
