"""vLLM: routing recorded and steered inside its workers.

1. `worker.RoutingWorker` is loaded by vLLM into every worker (`worker_extension_cls`).
2. `taps` stand on each router: logits before the choice, logical expert ids, executed gate weights.
3. `step_watch` knows which row of a step is which request and position.
4. `spool` keeps rows by request, and writes those of finished requests to files.
5. `trace` sends the prompts, and turns those files into committed parts.

Tried with vLLM 0.32 on CPU. What it stands on (`worker_extension_cls`, `collective_rpc`, the routers'
`_compute_routing`, the model runners' `_model_forward` and `prepare_inputs`) is in every release from 0.24 on.
"""
