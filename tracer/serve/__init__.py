"""One process that holds a model and answers over HTTP: generate, score, steer and trace live.

    http/      routes (HTTP in, events out; knows no torch), who may ask, what a request may say and the OpenAPI
               description that is made of it
    engine/    one worker thread owns the model and takes single steps of the requests in turn
    requests/  the requests themselves, as generators of steps
    binding.py where it listens, its token file
    server.py  the one JSON line, shutdown

Two people who steer one model never affect each other: requests never share a forward pass or a cache, and
between two steps nothing is attached to the model.
"""
