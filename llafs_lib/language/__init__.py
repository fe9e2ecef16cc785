"""Room 3: asked for a novel class, a language model names the classes that look like it.

    prompts → client → parsing → relations, with replay in place of client wherever an answer is recorded.

Nothing here imports torch, and nothing but `client` touches the network.
"""
