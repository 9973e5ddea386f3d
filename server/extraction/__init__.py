"""Making vectors on the served model.

a request      request.py    method, texts, layers, token rule: read and checked
becomes rows   examples.py   each text as tokens, and which of them are read
captured       capture.py    through the engine, of which pace.py takes a share while others use
                             it; kept in store.py
fitted         fit.py        by a function of vectors/methods, with measures of its quality
and a vector   job.py        in the library; jobs.py keeps the books, state.py a job's page of
                             them, threads.py lets a job be cancelled while a thread works, api.py
                             has the routes
"""
