"""Started by torchrun in two processes: commands one after another, as `python -m moescope.app` runs each of them.

python -m torch.distributed.run --nproc-per-node 2 two_ranks.py FOLDER; FOLDER/calls.json lists arguments by name, and
each rank leaves FOLDER/NAME.RANK.json: exit code, stdout, stderr.
"""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from moescope.app.cli import ranks
from moescope.app.cli.commands import run

ranks._ended = lambda code: code  # the processes go on together
folder = Path(sys.argv[1])
for name, arguments in json.loads((folder / "calls.json").read_text()).items():
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = ranks.together(lambda given=arguments: run(given))
    told = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    (folder / f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(told))
