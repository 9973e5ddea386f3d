"""What can go wrong while the demo is prepared."""

from typing import ClassVar

from steersman.vectors.errors import SteersmanError


class DemoError(SteersmanError):
    """The demo model or a demo vector cannot be made; the message says what to do."""

    default_code: ClassVar[str] = "demo_unavailable"
