"""What can go wrong for a client, and the exit status that says so.

    CliError
    ├── Refused       1   the server refused, or failed
    ├── WrongUsage    2   options that do not go together, or a file that cannot be what it must
    └── Unreachable   3   nobody answers at that address

A `SteersmanError` of `vectors`, which reads files here, is a 1; Ctrl-C is 130, as in every shell.
"""

from typing import Any, ClassVar, Final

INTERRUPTED: Final = 130


class CliError(Exception):
    """`message` says what is wrong, `remedy` what to do about it if the message does not.

    `param` names the offending key or option; `code` is the server's word for machines.
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
    """The server answered, and not with what was asked for; `status` is 0 for a job or a stream."""

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
    """The command was called in a way that cannot be meant."""

    exit_code = 2


class Unreachable(CliError):
    """No server answered."""

    exit_code = 3

    @property
    def kind(self) -> str:
        return "connection_error"
