"""Ask one question unsteered and steered, with OpenAI's own client, and print the receipt.

python examples/steer.py                       # the demo server on port 8000, `cheerful` at 1.5
python examples/steer.py http://host:9000 formal -1
"""

import json
import sys

from openai import OpenAI

QUESTION = "Tell me about your weekend."


def main(server: str = "http://127.0.0.1:8000", vector: str = "cheerful", by: str = "1.5") -> None:
    client = OpenAI(base_url=f"{server}/v1", api_key="none")
    model = client.models.list().data[0].id
    steering = {"vectors": [{"id": vector, "coefficient": float(by)}]}
    for extra in ({}, {"steering": steering}):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=40,
            extra_body=extra,
        )
        print("steered:" if extra else "unsteered:", answer.choices[0].message.content)
    # What was added, where, how strongly, and to how many tokens. OpenAI's client keeps a key
    # that it does not know.
    print("receipt:", json.dumps((answer.model_extra or {})["steering"], indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
