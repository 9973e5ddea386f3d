"""What the engine core decides, without vLLM.

admission     which requests get bank rows now, which wait, which are refused
companions    dynamic answers: their companions, whose turn it is, when they end
"""
