"""Room 3: asked for a novel class, a language model names the classes that look like it.

    asking     the entry point: recorded answer → else a live one → parse → repair → else text similarity
      prompts    the questions, and all that decides an answer
      replay     recorded answers: found, kept, shared between processes
      client     one call to an OpenAI-compatible server; keys, cost and running beside it
      parsing    from whatever was written to ranked classes of the list
    relations  controls that are no language model (words, super-categories, shuffled), merging, the matrix
    embedding  words as an embeddings endpoint sees them

Nothing here imports torch, and nothing but `client` touches the network.
"""
