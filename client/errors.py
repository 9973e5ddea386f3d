"""Errors of a client, each with its exit status.

    CliError
    ├── Refused       1   the server refused, or failed
    ├── WrongUsage    2   options that contradict each other, or a file that cannot be used
    └── Unreachable   3   no server answers at that address

A `SteersmanError` of `vectors`, which reads files here, is a 1; Ctrl-C is 130, as in every shell.
"""

from typing import Any, ClassVar, Final

INTERRUPTED: Final = 130


class CliError(Exception):
    """`message`: what is wrong; `remedy`: what to do, unless the message has it.

    `param` is the key or option at fault; `code` is the server's machine-readable word.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        remedy: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy
        self.code = code

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints: OpenAI's envelope, as the server sends it, and the remedy."""
        body = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": body | ({"remedy": self.remedy} if self.remedy else {})}

    @property
    def kind(self) -> str:
        """OpenAI's `type` of an error."""
        return "invalid_request_error"


class Refused(CliError):
    """The server answered with an error. `status` is 0 for a job or a stream."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        param: str | None = None,
        remedy: str | None = None,
        code: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message, param=param, remedy=remedy, code=code)
        self.status = status
        self._kind = kind or ("server_error" if status >= 500 else "invalid_request_error")

    @property
    def kind(self) -> str:
        return self._kind


class WrongUsage(CliError):
    """Options that contradict each other, or a file or value that cannot be read."""

    exit_code = 2


class Unreachable(CliError):
    """No server answered."""

    exit_code = 3

    @property
    def kind(self) -> str:
        return "connection_error"
