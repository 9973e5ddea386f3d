"""What the engine core decides, without vLLM.

admission     which requests get bank rows now, which wait, which are refused
loads         which vectors the workers hold or load, and which requests wait for them
companions    dynamic answers and their companions: which may run, and when they end
"""
