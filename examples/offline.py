"""Steer vLLM's own `LLM`, without a server: python examples/offline.py MODEL VECTOR.safetensors"""

import os
import sys

os.environ["VLLM_PLUGINS"] = "steersman"  # before vllm is imported
from vllm import LLM, SamplingParams

import steersman

if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    on_a_cpu = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    steer = steersman.offline(LLM(sys.argv[1], max_model_len=2048, **on_a_cpu))
    glad = steer.add(sys.argv[2])
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    params = SamplingParams(temperature=0, max_tokens=12)
    (answer,) = steer.chat(messages, params, steering={"vectors": {glad: 3.0}})
    print(answer.outputs[0].text, list(answer.outputs[0].token_ids), answer.steering, sep="\n")
