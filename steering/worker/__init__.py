"""What a worker keeps, without vLLM: a step's requests become table entries, which layers read.

batch            the steps of a model runner: which requests come, end and run
requests         steered requests: leases of bank rows and table entries, counts
bank             which vector is in which row of the bank
loads/           vectors are read in threads, and come into the bank ahead of their requests
tables, staging  the tensors that the operation reads, and how they reach the device
hooks            the way through a layer: adds, then calls listeners
gating/          gates and markers: at which tokens a use acts
listeners/       what is captured and read of requests, median norms
composition      dynamic composition: from companions' logits to coefficients
finite           whether the numbers of a step are finite
blocks, residual_probe, selfcheck    at start: find the blocks, probe what they return, steer once
"""
