"""The process of an example that the app starts: `python -m moescope.sample_data.gallery.process FOLDER`; see
`moescope.tracer.jobs.jobs`."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path

from moescope.sample_data.gallery import run
from moescope.store.errors import StoreError
from moescope.tracer.errors import TracerError
from moescope.tracer.jobs.jobs import Job, Status, write_status

log = logging.getLogger("moescope.job")


def main(folder: Path) -> int:
    """Make the example that the job asks for; the exit code."""
    status, began = Status(state="building"), time.monotonic()
    write_status(folder, status)
    asked = Job(folder).asked
    try:
        trace = run(asked["example"], asked["out"])
        status.state, status.prompts, status.tokens = "complete", trace.num_prompts, trace.num_tokens
        status.summary = {"prompts": trace.num_prompts, "tokens": trace.num_tokens}
        status.summary["seconds"] = time.monotonic() - began
    except KeyboardInterrupt:
        status.state = "cancelled"
    except (TracerError, StoreError) as error:
        log.exception("the example failed")
        status.state, status.error = "failed", str(error)
    except Exception as error:
        log.exception("the example failed")
        status.state, status.error = "failed", f"{type(error).__name__}: {error}"
    write_status(folder, status)
    return 0 if status.state == "complete" else 1


if __name__ == "__main__":
    # Ignored from birth where the app runs in the background of a shell script: cancelling would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(main(Path(sys.argv[1])))
