"""Room 3: asked for a novel class, a language model names the classes that look like it.

    asking, dialogue   the entry point: recorded answer → else a live one → parse → repair → else text similarity
      prompts    the questions, and all that decides an answer
      replay     recorded answers: found, kept, shared between processes
      server     the address and the key
      client, responses   one question to an OpenAI-compatible server, which may take several requests
      cost       prices, and a budget that every request is counted in
      parsing, reading    from whatever was written to ranked classes of the list
    relations  controls that are no language model (words, super-categories, shuffled), merging, the matrix

Nothing here imports torch, and nothing but `client` touches the network.
"""
