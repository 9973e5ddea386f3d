"""The turns of a conversation, and the commands between them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from steersman.client.chat.stream import Answer, stream_answer
from steersman.client.cli import parse, show
from steersman.client.cli.vectors.listing import print_vectors
from steersman.client.errors import CliError, WrongUsage
from steersman.client.http import Client

COMMANDS = (
    "/steer ID C | off, /project ID, /read ID | off, /vectors, /set NAME VALUE, /reset, /quit"
)
SAMPLING: Final = ("temperature", "top_p", "max_tokens", "seed")


@dataclass
class Conversation:
    """The messages so far, and how the next answer is steered.

    `options` are added to every request. `steering` maps ids to coefficients, where None stands for
    the vector's own coefficient; it is None itself where the server decides, by its default preset.
    `operations` are those of vectors that do another than their own.
    """

    client: Client
    options: dict[str, Any]
    system: str | None = None
    as_json: bool = False
    steering: dict[str, float | None] | None = None
    operations: dict[str, str] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    """Ids of vectors that the answers are compared with."""
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all messages except the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def steer(self, steering: dict[str, float | None]) -> None:
        """Steer from the next answer on. Raises `Refused` if the server does not have one of the
        vectors; nothing changes then."""
        for vector_id in steering:
            self.client.vector(vector_id)
        self.steering, self.operations = steering, {}

    def project(self, steering: dict[str, float | None]) -> None:
        """Also project these vectors out of the stream, beside what is steered already. Raises as
        `steer`."""
        for vector_id in steering:
            self.client.vector(vector_id)
        self.steering = (self.steering or {}) | steering
        self.operations |= dict.fromkeys(steering, "project")

    def read(self, vector_ids: list[str]) -> None:
        """Compare the answers with these vectors, from the next one on. Raises `Refused` if the
        server does not have one of them; nothing changes then."""
        for vector_id in vector_ids:
            self.client.vector(vector_id)
        self.reads = vector_ids

    def body(self, text: str) -> dict[str, Any]:
        """The request for an answer to `text`."""
        messages = [*self.messages, {"role": "user", "content": text}]
        body = {**self.options, "messages": messages, "stream": True}
        if self.steering == {}:
            body["steering"] = None
        elif self.steering is not None:
            body["steering"] = {
                "vectors": [
                    {"id": vector_id}
                    | ({} if value is None else {"coefficient": value})
                    | ({"operation": operation} if operation else {})
                    for vector_id, value, operation in self._uses()
                ]
            }
        if self.reads:
            # A field that only reads turns a default preset off, as null does.
            uses = [{"id": vector_id, "measure": "cosine"} for vector_id in self.reads]
            body["steering"] = {**(body.get("steering") or {}), "read": uses}
        return body

    def ask(self, text: str) -> None:
        """Do one turn. An answer that fails or is interrupted leaves the conversation unchanged.
        Raises `Refused`, `Unreachable`, `KeyboardInterrupt`."""
        answer = stream_answer(self.client, self.body(text), aloud=not self.as_json)
        self.messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer.text},
        ]
        if self.as_json:
            show.print_json(answer.to_json())
        else:
            show.note(receipt_line(answer))
            if answer.finish_reason == "length":
                show.note("[cut off at max_tokens; /set max_tokens 1000 allows more]")

    def set(self, name: str, text: str) -> None:
        """Use `value` for the sampling option `name` from the next answer on; `off` leaves it to
        the server. Raises `WrongUsage`. A value that the server does not accept is refused with the
        next answer."""
        if name not in SAMPLING:
            raise WrongUsage(f"{name} cannot be set", remedy=f"set one of {', '.join(SAMPLING)}")
        if text == "off":
            self.options.pop(name, None)
            return
        value = parse.coefficient(text)
        whole = name in ("max_tokens", "seed")
        if value is None or (whole and not value.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise WrongUsage(f"{name} is {kind}, not {text!r}")
        self.options[name] = int(value) if whole else value

    def sampling(self) -> str:
        """How answers are sampled, in words."""
        parts = [f"{name} {self.options[name]:g}" for name in SAMPLING if name in self.options]
        return ", ".join(parts) or "sampled as the server does by default"

    def steered(self) -> str:
        """How the next answer is steered, in words."""
        if self.steering is None:
            return "not steered, unless the server has a default preset"
        if not self.steering:
            return "not steered"
        parts = (
            " ".join(filter(None, (operation, vector_id, None if value is None else f"{value:g}")))
            for vector_id, value, operation in self._uses()
        )
        return f"steered: {', '.join(parts)}"

    def _uses(self) -> list[tuple[str, float | None, str | None]]:
        """Of each vector its id, coefficient and operation; None for the vector's own."""
        uses = self.steering or {}
        return [(name, value, self.operations.get(name)) for name, value in uses.items()]


def converse(conversation: Conversation, source: TextIO) -> None:
    """Do turns until `source` ends or has /quit. At a terminal a failed turn is printed and the
    conversation continues; from a pipe the error is raised."""
    person = source.isatty()
    if person:
        show.note(f"{conversation.options['model']}: {COMMANDS}")
        show.note(conversation.sampling())
    for line in _typed() if person else source:
        text = line.strip()
        if not text:
            continue
        try:
            if text.startswith("/"):
                if not command(conversation, text):
                    return
            else:
                conversation.ask(text)
        except KeyboardInterrupt:
            if not person:
                raise
            show.note("\nstopped; the question and its answer are not part of the conversation")
        except CliError as failure:
            if not person:
                raise
            show.error(failure, as_json=False)


def command(conversation: Conversation, text: str) -> bool:
    """Run a line that begins with a slash; returns False to end. Raises `CliError`."""
    name, *words = text.split()
    match name:
        case "/quit" | "/exit":
            return False
        case "/reset":
            conversation.reset()
            show.note("forgotten")
        case "/vectors":
            _show_vectors(conversation)
        case "/set" if len(words) in (0, 2):
            if words:
                conversation.set(*words)
            show.note(conversation.sampling())
        case "/set":
            raise WrongUsage("/set takes a name and a value", remedy="as in /set temperature 0.2")
        case "/steer":
            if words == ["off"]:
                conversation.steer({})
            elif words:
                conversation.steer(parse.steering(words))
            show.note(conversation.steered())
        case "/project" if words:
            conversation.project(parse.steering(words))
            show.note(conversation.steered())
        case "/project":
            raise WrongUsage("/project takes a vector", remedy="as in /project refusal")
        case "/read":
            if words:
                conversation.read([] if words == ["off"] else words)
            show.note(f"reads: {', '.join(conversation.reads) or 'nothing'}")
        case _:
            raise WrongUsage(f"{name} is not known", remedy=f"use {COMMANDS}")
    return True


def receipt_line(answer: Answer) -> str:
    """The receipt of an answer in one line."""
    if answer.receipt is None:
        return "[not steered]"
    parts = []
    for vector in answer.receipt["vectors"]:
        doses = vector.get("relative_dose")
        dose = f", dose {max(doses.values()):.2g}" if doses else ""
        name = " ".join(filter(None, (vector.get("operation"), vector["id"])))
        parts.append(
            f"{name} {vector['coefficient']:g} at {show.layers(vector['layers'])}{dose}, "
            f"{vector['steered_tokens']} tokens"
        )
    for read in answer.receipt.get("reads", ()):
        for place, values in read["values"].items():
            if values:
                mean = sum(values) / len(values)
                parts.append(
                    f"{read['id']} read at {place}: {read['measure']} {mean:+.3f} on average"
                )
    return f"[{'; '.join(parts)}]"


def _show_vectors(conversation: Conversation) -> None:
    found = conversation.client.vectors()
    if conversation.as_json:
        show.print_json({"object": "list", "data": found})
    else:
        print_vectors(found)


def _typed() -> Iterator[str]:
    """Lines typed at a terminal, with history and editing. Ctrl-C at the prompt ends the
    conversation."""
    import readline  # noqa: F401  `input` uses it once it is imported.

    while True:
        try:
            yield input("you> ")
        except EOFError:
            show.note("")
            return
