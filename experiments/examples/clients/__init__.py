"""One file each for the libraries that people train with: `python -m experiments.examples.clients.with_torchrl`.

Each plays papi_env/Decode-v0 with random actions through the library's own collector, or trains briefly, and prints
steps per second of one process. What a library needs to know of the environments stands at the top of its file.
"""
