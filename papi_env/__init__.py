"""A reinforcement-learning environment for scheduling LLM decoding on GPUs and processing-in-memory.

Importing the package registers the environments by name and loads no heavy library.
"""

from papi_env.envs.registration import register_all

__version__ = "0.1.0"

register_all()
