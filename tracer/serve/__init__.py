"""One process that holds a model and answers over HTTP: generate, score, steer and trace live.

    app.py         routes: HTTP in, events out; knows no torch
    guard.py       who may ask: token, Host header, body size
    schemas.py     what a request may say; also the source of the OpenAPI description
    engine.py      one worker thread owns the model and takes single steps of the requests in turn
    generation.py, scoring.py, tracing.py, evaluating.py    the requests themselves, as generators of steps
    lanes.py         texts that grow token by token; prompt_positions.py tells of the pass that read the prompt
    server.py      binding, token file, the one JSON line, shutdown

Two people who steer one model never affect each other: requests never share a forward pass or a cache, and
between two steps nothing is attached to the model.
"""
