"""Why a server did not start, in one line: what, which option, what to do."""

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
_START: Final = re.compile(r"^(?:\[?\w*\]?\s*)?(?:\w+\.)*([A-Z]\w*(?:Error|Exception|Exit|Invalid|"
                           r"Instrumentable|Interrupt))(?:: (.*))?$")  # fmt: skip
_VAGUE: Final = re.compile(
    r"Engine core initialization failed|See (?:stack trace|root cause)|Failed core proc|"
    r"WorkerProc initialization failed|Worker failed with error"
)


def cause(trace: str, error: BaseException | None) -> str:
    """One line out of the tracebacks of a start, `trace`, and what ended it, `error`: the first
    exception that says more than that another process failed, and the remedy where one is known."""
    found = [*_exceptions(trace), *([_flat(error)] if error is not None else [])]
    clear = [line for line in found if line and not _VAGUE.search(line)]
    line = (clear or found or ["the engine did not start"])[0]
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, line, re.IGNORECASE):
            return f"{line}; {remedy}" if remedy else line
    return line


def _exceptions(trace: str) -> list[str]:
    """`message` or `Type: message` of each traceback, the one that was raised last in it."""
    parts = _ENTRY.split(trace)
    return [line for text in parts[2::2] if (line := _last(text))]


def _last(text: str) -> str:
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
