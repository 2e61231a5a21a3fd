"""A reinforcement-learning environment for scheduling LLM decoding on GPUs and processing-in-memory."""
