"""Making vectors on the served model.

request    the body of `POST /v1/steering/vectors/extract`: method, layers, token rule
samples    its texts, inline or of a file: which there are, on which side each is
examples   each text as tokens, and which of them are read; what looks wrong with them
capture    one text through the engine; pace has when the next may go, beside others' requests
store      activations on disk, until they are fitted
fit        activations to vectors, by a function of vectors/methods, with measures of quality
pipeline   a job from its texts to the library; context has what it runs on
job, jobs  a job's state and file, and all jobs of a library
api        the routes
"""
