"""Ask one question at five strengths at once, then stream an answer, with `steersman.AsyncClient`.

python examples/at_once.py                     # the demo server on port 8000, `cheerful`
python examples/at_once.py http://host:9000 formal
"""

import asyncio
import sys

import steersman

QUESTION = "Tell me about your weekend."
STRENGTHS = (-1.5, -0.75, 0.0, 0.75, 1.5)


async def main(server: str = "http://127.0.0.1:8000", vector: str = "cheerful") -> None:
    async with steersman.AsyncClient(server) as client:

        async def ask(coefficient: float) -> str:
            steering = {"vectors": {vector: coefficient}}
            answer = await client.chat(QUESTION, steering=steering, temperature=0, max_tokens=40)
            return answer.text

        # The engine batches them: five answers take little longer than one.
        answers = await asyncio.gather(*map(ask, STRENGTHS))
        for coefficient, text in zip(STRENGTHS, answers, strict=True):
            print(f"{coefficient:+}: {text}")

        steering = {"vectors": {vector: STRENGTHS[-1]}}
        stream = await client.stream(QUESTION, steering=steering, temperature=0, max_tokens=40)
        print("streamed: ", end="")
        async for piece in stream:
            print(piece, end="", flush=True)
        # Both are there once a steered stream has ended.
        assert stream.answer is not None
        assert stream.answer.receipt is not None
        print("\nsteered tokens:", stream.answer.receipt["vectors"][0]["steered_tokens"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
