"""Making vectors on the served model.

request    the body of `POST /v1/steering/vectors/extract`: method, layers, token rule
samples    its texts, inline or in a file, and the side of each
examples   each text as tokens, which of them are read, and warnings
capture    one text through the engine; pace decides when the next may start
store      activations on disk, until they are fitted
fit        activations to vectors, by a function of vectors/methods, with measures of quality
pipeline   a job from its texts to the library; context has what it needs
job, jobs  a job's state and file, and all jobs of a library
api        the routes
"""
