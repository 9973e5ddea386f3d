"""Engine room: everything of Steersman that runs inside vLLM's processes.

A request becomes a plan (`steersman.steering.plan`), a plan becomes rows (`bank`, `table`), and
rows become one addition on the way through a layer (`op`, called from `instrument`). Everything
that touches a vLLM internal lives in a module named `seam_*`; `docs/seams.md` lists them.
"""
