"""Ray: one trace by many workers, each with the model in an actor of its own.

1. `desk.Desk` is an actor beside the trace: it holds the ledger, and deals out lots of prompts.
2. `worker.Worker` is an actor with the model: it asks for a lot, records it, and puts parts into the trace's folder.
3. `trace` starts both and watches: what a worker that died had not committed is dealt out again.
"""
