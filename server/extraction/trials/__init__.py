"""Methods that try what they made: each candidate steers prompts of the job, and the best is taken.

runs       one prompt for one token, steered or not
ablation   `directional_ablation`
"""
