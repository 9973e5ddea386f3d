"""Why a server did not start, in one line: what is wrong, which option, what to do."""

import re
from typing import Final

_REMEDIES: Final = (
    (
        r"KV cache|cache blocks|max seq len",
        "set --max-model-len lower or --kv-cache-memory-bytes higher"
        " (on a GPU also --gpu-memory-utilization)",
    ),
    (r"DefaultCPUAllocator|not enough memory|out of memory|OutOfMemory|MemoryError|Cannot allocate",
     "set --kv-cache-memory-bytes, --max-num-seqs or --bank-rows lower, or serve a smaller model"),
    (r"No space left", "free some space, or set STEERSMAN_HOME, TMPDIR or HF_HOME to another disk"),
    (r"huggingface\.co|couldn't connect|Max retries|offline mode|LocalEntryNotFound|not a valid "
     r"model identifier|Repository Not Found",
     "give a folder with the model, or a name on the hub while there is a network"),
    (r"trust_remote_code", "add --trust-remote-code if you trust the model's own code"),
    (r"Address already in use", "choose another --port"),
    (r"Steersman (?:cannot steer|supports)", ""),
)  # fmt: skip
_ENTRY: Final = re.compile(r"^=== \S+ (\S+)\n", re.MULTILINE)
_START: Final = re.compile(
    r"^(?:\[\w+\]:? )?(?:\w+\.)*(\w*(?:Error|Exception|Exit|Invalid|Instrumentable|Interrupt))"
    r"(?:: (.*))?$"
)
_VAGUE: Final = re.compile(
    r"Engine core initialization failed|See (?:stack trace|root cause)|Failed core proc|"
    r"WorkerProc initialization failed|Worker failed with error"
)


KILLED: Final = (
    "a process of the engine died without an error; so does a process that the kernel kills "
    "because memory runs out: see `dmesg`, and set --kv-cache-memory-bytes lower"
)


def cause(trace: str, error: BaseException | None) -> str:
    """One line out of the tracebacks of a start, `trace`, and what ended it, `error`: the first
    exception that is not only of another process's failure, and the remedy where one is known."""
    entries = _ENTRY.split(trace)[2::2]
    found = [line for text in entries if (line := _last(text))]
    found += [_flat(error)] if error is not None else []
    clear = [line for line in found if not _VAGUE.search(line)]
    # A process that was killed has raised nothing; vLLM says so in an entry without a traceback.
    plain = [" ".join(text.split()) for text in entries if "Traceback (most" not in text]
    line = (clear or plain or [KILLED if found else "the engine did not start"])[0]
    for pattern, remedy in _REMEDIES:
        if not re.search(pattern, line, re.IGNORECASE):
            continue
        if not remedy:
            return line
        # Our remedy names options; vLLM's names arguments of its Python interface.
        line = re.sub(r"[.;,]?\s+(?:Try |Please |See )\S.*$", "", line)
        return f"{line.rstrip(' .;')}; {remedy}"
    return line


def _last(text: str) -> str:
    """`message` or `Type: message` of the exception that was raised last in the traceback `text`;
    empty for one without."""
    lines = text.rstrip().splitlines()
    for n in range(len(lines) - 1, -1, -1):
        if match := _START.match(lines[n]):
            rest = " ".join([match[2] or "", *lines[n + 1 :]])
            return _named(match[1], rest)
    return ""


def _flat(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}{name}"
    return _named(type(error).__name__, str(error))


def _named(kind: str, message: str) -> str:
    message = " ".join(message.split())
    # The message of our own refusals, and vLLM's of wrong values, say all.
    if message and kind in ("ValueError", "RuntimeError", "NotInstrumentable", "SystemExit"):
        return message
    return f"{kind}: {message}" if message else kind
