"""The command `steersman chat`: its options."""

import sys
from typing import Annotated, Any, Final

import typer

from steersman.client import paths
from steersman.client.cli import parse
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples

SHORT = "Talk to the model, and steer it as you go."
HELP = with_examples(
    f"{SHORT} Lines from a pipe are turns of one conversation; "
    "answers go to stdout, receipts to stderr.\n\n"
    "\b\nIn the conversation:\n"
    "  /steer cheerful 1.5      steer from here on; without 1.5: its own coefficient\n"
    "  /steer A 1.5 B -1        several vectors at once\n"
    "  /project refusal         take its direction out of the stream as well; 0.5: half of it\n"
    "  /steer off               stop steering; /steer: print what is steered\n"
    "  /vectors                 what can be steered\n"
    "  /set temperature 0.2     also top_p, max_tokens and seed; /set: what they are\n"
    "  /reset                   forget the conversation\n"
    "  /quit                    end, as Ctrl-D does; Ctrl-C stops an answer",
    """
    steersman chat
    steersman chat --steer "cheerful 1.5" --temperature 0
    printf '%s\\n' '/steer cheerful 2' 'How is it?' | steersman chat
    echo 'How is it?' | steersman chat --steer cheerful=2 --json | jq .steering
    """,
    after="With --json, each answer is one line: its message, finish_reason and steering receipt.",
)


MAX_TOKENS: Final = 300
TEMPERATURE: Final = 0.7
TOP_P: Final = 0.9
"""Vendors recommend about as much for small chat models; the API's own 1.0 is for large ones."""


def chat(
    ctx: typer.Context,
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar='"ID C"', help="Steer from the start, as /steer does."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="\\[default: the server's]")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")
    ] = MAX_TOKENS,
    temperature: Annotated[
        float, typer.Option(min=0, metavar="T", help="0: always the likeliest token.")
    ] = TEMPERATURE,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            metavar="P",
            help="Sample from the likeliest tokens whose probabilities sum to P.",
        ),
    ] = TOP_P,
    seed: Annotated[int | None, typer.Option(metavar="N")] = None,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman chat`."""
    from steersman.client.chat.loop import Conversation, converse

    asked = wants_json(ctx, as_json)
    steering = parse.steering(steer or [])
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    with connection(ctx, server, api_key) as client:
        served = model or client.get(paths.CAPABILITIES)["model"]
        conversation = Conversation(
            client,
            {"model": served, **{k: v for k, v in options.items() if v is not None}},
            system,
            as_json=asked,
        )
        if steering:
            conversation.steer(steering)
        converse(conversation, sys.stdin)
